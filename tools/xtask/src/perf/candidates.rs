//! The relays that are compared: how each is found, started and named. Where a rival needs a file, it
//! is written into the trial's folder.
//!
//! Every rival gets what makes it fast here and costs nothing: one worker, no log, a large receive
//! buffer. None is known to use UDP_GRO or UDP_SEGMENT on this path.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::failure::{Failure, Outcome};
use super::net::{Network, find_program};
use super::overlay::Overlay;
use super::plan::Kind;
use super::process::Invocation;
use super::record::CandidateRecord;

/// Built programs of this project.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) spanway: PathBuf,
    pub(crate) yardstick: PathBuf,
    pub(crate) pktgen: PathBuf,
}

/// A relay that is there.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// The kind's, with `@REVISION` where two revisions are compared.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    program: PathBuf,
    version: String,
}

/// Where a relay listens and sends to in one trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The relay's own address on the way there.
    pub(crate) out: IpAddr,
    pub(crate) cpu: u32,
    /// For files that it needs; empty before.
    pub(crate) folder: &'a Path,
}

impl Job<'_> {
    /// The files of the overlay that is around this relay, if it is of that kind.
    pub(crate) fn overlay(&self) -> Overlay {
        Overlay::below(self.folder, self.listen.port())
    }
}

impl Candidate {
    /// None of a rival is required: the error is a sentence for the list of what is absent.
    pub(crate) fn find(kind: Kind, programs: &Programs) -> Outcome<Self> {
        let program = match kind {
            Kind::Uring
            | Kind::Mmsg
            | Kind::OverlayUring
            | Kind::OverlayMmsg
            | Kind::OverlayTagged => programs.spanway.clone(),
            Kind::Yardstick | Kind::Plain | Kind::One => programs.yardstick.clone(),
            Kind::Kernel => PathBuf::new(),
            Kind::Nginx => installed("nginx", "apt-get install nginx libnginx-mod-stream")?,
            Kind::Coturn => installed("turnserver", "apt-get install coturn")?,
            Kind::Socat => installed("socat", "apt-get install socat")?,
            Kind::Srt => installed("srt-live-transmit", "apt-get install srt-tools")?,
            Kind::Quilkin => installed(
                "quilkin",
                "RUSTFLAGS=-Ctarget-cpu=native cargo install quilkin --version 0.10.0 --locked",
            )?,
        };
        if matches!(kind, Kind::Uring | Kind::Mmsg) {
            has_forward(&program)?;
        }
        if kind == Kind::Nginx && !Path::new(NGINX_STREAM).exists() {
            return Err(Failure::new(format!(
                "no {NGINX_STREAM}: apt-get install libnginx-mod-stream"
            )));
        }
        let version = version(kind, &program);
        Ok(Self { name: kind.name().to_owned(), kind, program, version })
    }

    /// The same relay built from another revision.
    pub(crate) fn at_revision(
        kind: Kind,
        revision: &str,
        commit: &str,
        spanway: PathBuf,
    ) -> Outcome<Self> {
        has_forward(&spanway)?;
        let name = format!("{}@{revision}", kind.name());
        Ok(Self { name, kind, program: spanway, version: commit.to_owned() })
    }

    pub(crate) fn record(&self) -> CandidateRecord {
        let job = Job {
            listen: SocketAddr::from(([198, 18, 1, 2], 5000)),
            to: SocketAddr::from(([198, 18, 2, 2], 6000)),
            out: IpAddr::from([198, 18, 2, 1]),
            cpu: 0,
            folder: Path::new("DIR"),
        };
        let line = self.arguments(&job).map(|arguments| {
            let program = self.program.file_name().unwrap_or_default().to_string_lossy();
            format!("{program} {}", arguments.join(" "))
        });
        let command = line.unwrap_or_else(|| "sysctl -w net.ipv4.ip_forward=1".to_owned());
        CandidateRecord { name: self.name.clone(), version: self.version.clone(), command }
    }

    /// What to start for a job; None for the kernel, which needs no process.
    pub(crate) fn prepare(&self, job: &Job<'_>, network: &Network) -> Outcome<Option<Invocation>> {
        if self.kind == Kind::Nginx {
            let file = job.folder.join("nginx.conf");
            fs::write(&file, nginx_conf(job)).map_err(Failure::of(file.display()))?;
        }
        if let (true, Some(backend)) = (self.kind.is_overlay(), self.kind.backend()) {
            // Older revisions do not know the key.
            let tags = if self.kind == Kind::OverlayTagged { "hop_tag = true\n" } else { "" };
            let engine = format!("cpus = [{}]\nbackend = \"{backend}\"\n{tags}", job.cpu);
            job.overlay().write(network, job.listen.port(), &engine)?;
        }
        let program = self.program.clone();
        Ok(self.arguments(job).map(|arguments| Invocation { program, arguments }))
    }

    fn arguments(&self, job: &Job<'_>) -> Option<Vec<String>> {
        let Job { listen, to, out, cpu, folder } = job;
        let (ip, port) = (listen.ip(), listen.port());
        let folder = folder.display();
        let line = match self.kind {
            Kind::Uring => {
                format!("forward --listen {listen} --to {to} --cpus {cpu} --backend uring")
            }
            Kind::Mmsg => {
                format!("forward --listen {listen} --to {to} --cpus {cpu} --backend mmsg")
            }
            Kind::Yardstick => format!("--listen {listen} --to {to}"),
            Kind::Plain => format!("--listen {listen} --to {to} --plain"),
            Kind::One => format!("--listen {listen} --to {to} --one"),
            Kind::Kernel => return None,
            Kind::OverlayUring | Kind::OverlayMmsg | Kind::OverlayTagged => {
                format!("run --config {}", job.overlay().relay().display())
            }
            Kind::Nginx => format!("-p {folder} -c {folder}/nginx.conf -e stderr"),
            Kind::Coturn => format!(
                "-n --no-auth -L {ip} -p {port} -E {out} --no-tls --no-dtls --no-cli \
                 --allow-loopback-peers -m 1 --log-file stdout --pidfile {folder}/coturn.pid \
                 --userdb {folder}/coturn.db"
            ),
            Kind::Socat => {
                let family = if ip.is_ipv4() { 4 } else { 6 };
                let ip = if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") };
                format!(
                    "-u -b 65536 UDP{family}-RECV:{port},bind={ip},rcvbuf=33554432 \
                     UDP{family}-SENDTO:{to}"
                )
            }
            Kind::Srt => format!("-q -chunk:1456 udp://{listen}?mode=listener udp://{to}"),
            Kind::Quilkin => format!(
                "--service.udp --service.udp.port {port} --service.udp.workers 1 \
                 --provider.static.endpoints {to}"
            ),
        };
        Some(line.split_whitespace().map(str::to_owned).collect())
    }
}

const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// One process, no log; `rcvbuf` is cut to what the system allows.
fn nginx_conf(job: &Job<'_>) -> String {
    format!(
        "load_module {NGINX_STREAM};\nmaster_process off;\ndaemon off;\nworker_processes 1;\n\
         pid nginx.pid;\nevents {{ worker_connections 4096; }}\n\
         stream {{ server {{ listen {} udp rcvbuf=64m; proxy_pass {}; }} }}\n",
        job.listen, job.to
    )
}

fn installed(program: &str, how: &str) -> Outcome<PathBuf> {
    find_program(program)
        .ok_or_else(|| Failure::new(format!("`{program}` is not installed ({how})")))
}

/// Whether this build of the daemon can forward at all: old revisions cannot.
fn has_forward(spanway: &Path) -> Outcome<()> {
    let help = std::process::Command::new(spanway).args(["forward", "--help"]).output();
    let help = help.map_err(Failure::of(spanway.display()))?;
    if help.status.success() {
        return Ok(());
    }
    Err(Failure::new("this build of spanway has no `forward`"))
}

/// The first line with a digit of what the program says about itself.
fn version(kind: Kind, program: &Path) -> String {
    let flag = match kind {
        Kind::Kernel => return super::facts::kernel(),
        Kind::Yardstick | Kind::Plain | Kind::One => return super::facts::commit(),
        Kind::Nginx => "-v",
        Kind::Socat => "-V",
        Kind::Srt => "-version",
        Kind::Uring
        | Kind::Mmsg
        | Kind::OverlayUring
        | Kind::OverlayTagged
        | Kind::OverlayMmsg
        | Kind::Quilkin
        | Kind::Coturn => "--version",
    };
    let Ok(said) = std::process::Command::new(program).arg(flag).output() else {
        return String::new();
    };
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()));
    line.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: Kind) -> Candidate {
        let program = PathBuf::from("/usr/bin/program");
        Candidate { name: kind.name().to_owned(), kind, program, version: String::new() }
    }

    #[test]
    fn a_command_says_where_to_listen_and_where_to_send() {
        for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Kernel && !kind.is_overlay())
        {
            let listen: SocketAddr = "[2001:2:0:1::2]:5000".parse().unwrap();
            let to: SocketAddr = "[2001:2:0:2::2]:6000".parse().unwrap();
            let job = Job { listen, to, out: to.ip(), cpu: 0, folder: Path::new("/tmp/x") };
            let arguments = candidate(kind).arguments(&job).unwrap().join(" ");
            let text = if kind == Kind::Nginx { nginx_conf(&job) } else { arguments };
            // A TURN server hears from its client where to send.
            let to = if kind == Kind::Coturn { "2001:2:0:2::2" } else { "[2001:2:0:2::2]:6000" };
            assert!(text.contains(to), "{text}");
            assert!(text.contains("5000"), "{text}");
        }
        assert!(candidate(Kind::Kernel).record().command.contains("ip_forward"));
    }
}
