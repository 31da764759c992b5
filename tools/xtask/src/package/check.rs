//! Is what is in the package enough? It is unpacked into a folder, and what is found there is started: two
//! daemons on loopback, a channel, a stream that arrives byte for byte.
//!
//! Installs nothing: scripts of the package do not run, and nothing outside the folder is used.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Made, make_folder, ran, wrong};

/// For two daemons to find each other, and again for the stream.
const SOON: Duration = Duration::from_secs(20);
/// Some seconds of frames at the rate below.
const STREAM_BYTES: u32 = 2_000_000;
const RATE: &str = "8Mbit/s";

/// What a person expects of a package, whatever else is in it.
const FILES: [&str; 9] = [
    "usr/bin/spanway",
    "usr/lib/systemd/system/spanway.service",
    "usr/lib/systemd/system/spanway@.service",
    "usr/lib/sysctl.d/60-spanway.conf",
    "usr/share/spanway/spanway.toml",
    "usr/share/doc/spanway/LICENSE-MIT",
    "usr/share/doc/spanway/LICENSE-APACHE",
    "usr/share/doc/spanway/README.md",
    "usr/share/doc/spanway/docs/quick-start.md",
];

pub(super) fn check(package: &Path) -> Made<()> {
    let root = PathBuf::from(super::FOLDER).join("unpacked");
    // Of the check before; a folder that is not there is gone as well.
    let _ = fs::remove_dir_all(&root);
    make_folder(&root)?;
    ran(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root))?;
    let root = root.canonicalize().map_err(|error| wrong(&root, &error))?;
    for file in FILES {
        if !root.join(file).is_file() {
            return Err(format!("{file} is not in it"));
        }
    }
    let program = root.join("usr/bin/spanway");
    first_configuration(&program, &root)?;
    stream(&program, &root)
}

/// The file that the package writes at its first installation is one that a daemon starts with.
fn first_configuration(program: &Path, root: &Path) -> Made<()> {
    let shipped = root.join("usr/share/spanway/spanway.toml");
    let text = fs::read_to_string(&shipped).map_err(|error| wrong(&shipped, &error))?;
    let key = root.join("spanway.key");
    ran(Command::new(program).args(["key", "--new"]).arg(&key).stdout(Stdio::null()))?;
    let text = text.replace("/etc/spanway/spanway.key", &key.to_string_lossy());
    let file = root.join("spanway.toml");
    fs::write(&file, text).map_err(|error| wrong(&file, &error))?;
    ran(Command::new(program).args(["config", "check", "--config"]).arg(&file))
}

fn stream(program: &Path, root: &Path) -> Made<()> {
    let folder = root.join("overlay");
    let port = free_port().ok_or("no free ports on loopback")?.to_string();
    let mut init = Command::new(program);
    init.args(["init", "--peers", "2", "--edges", "100", "--listen-base", &port, "--dir"]);
    ran(init.arg(&folder).stdout(Stdio::null()))?;
    let config = |peer: u8| folder.join(format!("peer-0{peer}.toml"));
    // They end when this function does.
    let _one = daemon(program, &config(1), root)?;
    let _other = daemon(program, &config(2), root)?;
    let client = |peer: u8, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).arg("--config").arg(config(peer)).stdin(Stdio::null());
        command
    };
    until("one tree", || {
        let out = client(1, &["verify", "--json"]).output().ok()?;
        let verdict: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        (verdict["correct"] == true && verdict["peers"] == 2).then_some(())
    })?;
    let bytes: Vec<u8> = (0..STREAM_BYTES).map(|at| (at ^ (at >> 8)).to_le_bytes()[0]).collect();
    let receiver = client(2, &["recv", "inbox"]).stdout(Stdio::piped()).spawn();
    let receiver = receiver.map_err(|error| wrong(program, &error))?;
    let receiver = thread::spawn(|| receiver.wait_with_output());
    until("a receiver", || {
        let out = client(1, &["services", "peer-02", "--json"]).output().ok()?;
        let services: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        let inbox = services.as_array()?.iter().find(|service| service["name"] == "inbox")?;
        (inbox["busy"] == false).then_some(())
    })?;
    let mut sender = send(&client, &bytes)?;
    let sent = sender.wait().map_err(|error| wrong(program, &error))?;
    if !sent.success() {
        return Err(format!("the sender ended with {sent}"));
    }
    let received = receiver.join().map_err(|_| "the receiver's thread died".to_owned())?;
    let received: Output = received.map_err(|error| wrong(program, &error))?;
    let stays = [1, 2].map(|peer| client(peer, &["status"]).stdout(Stdio::null()).status());
    let stay = stays.into_iter().all(|status| status.is_ok_and(|status| status.success()));
    match (received.stdout == bytes, stay) {
        (true, true) => {
            println!("unpacked and started: {STREAM_BYTES} bytes over a channel, unchanged");
            Ok(())
        }
        (false, _) => Err(format!("{} of {STREAM_BYTES} bytes came", received.stdout.len())),
        (true, false) => Err("a daemon is gone".to_owned()),
    }
}

fn send(client: &impl Fn(u8, &[&str]) -> Command, bytes: &[u8]) -> Made<Child> {
    let mut command = client(1, &["send", "peer-02/inbox", "--bandwidth", RATE]);
    let mut sender = command.stdin(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut input = sender.stdin.take().ok_or("a pipe was asked for")?;
    input.write_all(bytes).map_err(|error| format!("the sender takes no more: {error}"))?;
    Ok(sender)
}

/// Ends with this program, whatever ends that.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it is left.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(program: &Path, config: &Path, root: &Path) -> Made<Daemon> {
    let name = config.file_stem().unwrap_or_default().to_string_lossy();
    let log = root.join(format!("{name}.log"));
    let log = fs::File::create(&log).map_err(|error| wrong(&log, &error))?;
    let mut command = Command::new(program);
    command.args(["run", "--while-stdin", "--config"]).arg(config);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().map(Daemon).map_err(|error| wrong(program, &error))
}

/// Ports as far apart as `init` puts them.
fn free_port() -> Option<u16> {
    const APART: u16 = 16;
    (19_000..24_000).step_by(64).find(|base| {
        [*base, base + APART].iter().all(|port| {
            let address = ("127.0.0.1", *port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        })
    })
}

fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> Made<T> {
    #[expect(clippy::disallowed_methods, reason = "daemons live in real time")]
    let (start, now) = (Instant::now(), Instant::now);
    loop {
        if let Some(there) = there() {
            return Ok(there);
        }
        if now().duration_since(start) > SOON {
            return Err(format!("{what}: not within {SOON:?}"));
        }
        #[expect(clippy::disallowed_methods, reason = "asked again and again")]
        thread::sleep(Duration::from_millis(50));
    }
}
