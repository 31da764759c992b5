#!/usr/bin/env python3
"""Which lane for control work on a CPU that it shares with a worker? One experiment decides.

What it assumes: Linux 6.12 or later with root (it takes a copy of a daemon's socket and reschedules
its threads from outside), two CPUs, a release build of spanway. What it does: a relay daemon keeps
both lanes on one CPU; frames come from a neighbour's own socket at a fixed rate or as fast as they
can; a storm of tree computations and flapping neighbours comes and goes; the kernel stamps what
leaves the relay. The candidates run in turn within each round. What it does not do: change the
daemon; all candidates are the same program, its threads scheduled differently.

    relay's CPU                      the other CPU
    r: worker + control              source (this program, with the socket of a), sink, a, storm peers
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import time

PAYLOAD = 200
HEADER, TAIL = 48, 16
FRAME = HEADER + PAYLOAD + TAIL
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_TIMESTAMPNS = 35
STORM_PEERS = 6
# (worker's slice in us, control's slice in us, control's nice value); 0 is the kernel's own slice.
CANDIDATES = {
    "thread": (0, 0, 0),
    "thread + slices": (100, 10_000, 0),
    "thread + worker's slice only": (100, 0, 0),
    "thread + slices, nice 5": (100, 10_000, 5),
    "thread, nice 19": (0, 0, 19),
}


# --- Scheduling from outside ---

class SchedAttr(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32), ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64), ("period", ctypes.c_uint64),
    ]


LIBC = ctypes.CDLL(None, use_errno=True)
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}[os.uname().machine]
SYS_PIDFD_GETFD = 438


def schedule(thread, slice_us, nice):
    attr = SchedAttr(size=ctypes.sizeof(SchedAttr), nice=nice, runtime=slice_us * 1000)
    if LIBC.syscall(SYS_SCHED_SETATTR, thread, ctypes.byref(attr), 0) != 0:
        raise OSError(ctypes.get_errno(), f"sched_setattr of thread {thread}")


def set_group(pid, nice):
    """The nice value of the scheduling group of a session, where the kernel groups by sessions."""
    try:
        with open(f"/proc/{pid}/autogroup", "w") as group:
            group.write(str(nice))
    except OSError:
        pass


def worker_thread(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as comm:
            if comm.read().strip() == "spanway-w0":
                return int(task)
    raise RuntimeError("no worker")


def cpu_time(pid, thread):
    """Nanoseconds a thread ran, and waited for its CPU."""
    with open(f"/proc/{pid}/task/{thread}/schedstat") as text:
        ran, waited, _ = text.read().split()
    return int(ran), int(waited)


# --- Daemons ---

class Overlay:
    def __init__(self, spanway, folder, relay_cpu, other_cpu, apart):
        self.spanway, self.folder = spanway, folder
        names = ["r", "a"] + [f"s{n}" for n in range(STORM_PEERS)]
        base = 21_000
        self.port = {name: base + 16 * at for at, name in enumerate(names)}
        self.sink_port = base + 16 * len(names)
        keys = {name: self.new_key(name) for name in names}
        links = [("r", name) for name in names[1:]]
        links += [(f"s{n}", f"s{(n + 1) % STORM_PEERS}") for n in range(STORM_PEERS)]
        self.programs = {}
        for name in names:
            cpu = relay_cpu if name == "r" else other_cpu
            text = f'name = "{name}"\nlisten = "127.0.0.1:{self.port[name]}"\n'
            for at, ends in enumerate(links):
                if name not in ends:
                    continue
                peer = ends[1] if ends[0] == name else ends[0]
                text += (f'[[link]]\npeer = "{peer}"\naddress = "127.0.0.1:{self.port[peer]}"\n'
                         f'capacity = "{40 - at % 7} Gbit/s"\nkey = "{keys[peer]}"\n')
            if name == "r":
                text += f'[service.sink]\ndeliver = "127.0.0.1:{self.sink_port}"\n'
            if name in ("r", "a"):
                text += f"[engine]\ncpus = [{cpu}]\n[control]\ncpus = [{cpu}]\n"
            with open(self.file(name, "toml"), "w") as file:
                file.write(text)
        for name in names:
            cpu = relay_cpu if name == "r" else other_cpu
            command = ["taskset", "-c", str(cpu)]
            command += [spanway, "run", "--config", self.file(name, "toml")]
            log = open(self.file(name, "log"), "w")
            # A session of its own is a scheduling group of its own.
            self.programs[name] = subprocess.Popen(
                command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            # Storm peers must not take the source's and the sink's time; a stands for the network.
            set_group(self.programs[name].pid, {"r": -20 if apart else 0, "a": -15}.get(name, 5))
        self.links = {name: sum(name in ends for ends in links) for name in names}
        self.wait_for_tree()

    def file(self, name, ending):
        return os.path.join(self.folder, f"{name}.{ending}")

    def new_key(self, name):
        command = [self.spanway, "key", "--new", self.file(name, "key"), "--json"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        words = text.replace('"', " ").split()
        return next(word for word in words if len(word) == 64)

    def ask(self, name, request, deadline=5.0):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(deadline)
            client.connect(os.path.join(self.folder, f"{name}.state", "control.sock"))
            client.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                piece = client.recv(1 << 16)
                if not piece:
                    break
                answer += piece
        reply = json.loads(answer)
        if "ok" not in reply:
            raise RuntimeError(reply)
        return reply["ok"]

    def wait_for_tree(self):
        for _ in range(200):
            try:
                status = self.ask("r", {"request": "status"})
                verdict = self.ask("r", {"request": "verify"})
                if status["links_up"] == self.links["r"] and verdict["correct"]:
                    return status
            except (OSError, ValueError, RuntimeError):
                pass
            time.sleep(0.1)
        raise RuntimeError("no tree over all peers within 20 s")

    def link_deaths(self):
        """Links that were called dead because of their heartbeats; those of storm peers are true."""
        count = 0
        with open(self.file("r", "log")) as log:
            for line in log:
                event = json.loads(line)
                if event.get("peer") == "a" and "heartbeat" in event.get("why", ""):
                    count += 1
        return count

    def stop(self):
        for program in self.programs.values():
            program.send_signal(signal.SIGCONT)
            program.kill()
            program.wait()


# --- Data ---

def open_channel(overlay):
    """The entry of the one channel from a to r, opened if it is not there."""
    for row in overlay.ask("a", {"request": "channels"}):
        if row["state"] == "open":
            return address(row["listen"])
    reply = overlay.ask("a", {
        "request": "open", "peer": "r", "service": "sink", "bandwidth_bps": 30_000_000_000,
        "deadline_ms": 5_000, "bandwidth_back_bps": None, "name": None, "listen": None,
        "deliver": None, "from": None,
    })
    return address(reply["listen"])


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def first_frame(overlay, entry):
    """A frame as a sends it to r, taken off the wire: its label is what r believes."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    tap.bind(("lo", 0))
    tap.settimeout(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        for _ in range(50):
            program.sendto(bytes(PAYLOAD), entry)
            for _ in range(200):
                packet = tap.recv(1 << 16)
                udp = packet[20:]
                ports = struct.unpack_from("!HH", udp)
                data = udp[8:]
                if ports == (overlay.port["a"], overlay.port["r"]) and len(data) == FRAME:
                    tap.close()
                    return data
    raise RuntimeError("no frame was seen")


def socket_of(pid, port):
    """A copy of the daemon's UDP socket at `port`."""
    pidfd = os.pidfd_open(pid)
    for number in os.listdir(f"/proc/{pid}/fd"):
        fd = LIBC.syscall(SYS_PIDFD_GETFD, pidfd, int(number), 0)
        if fd < 0:
            continue
        try:
            copy = socket.socket(fileno=fd)
            if copy.type == socket.SOCK_DGRAM and copy.getsockname()[1:2] == (port,):
                return copy
            copy.detach()
        except OSError:
            pass
        os.close(fd)
    raise RuntimeError(f"process {pid} has no socket at port {port}")


def source(overlay, frame, per_second, burst, seconds, counted):
    """Bursts of `burst` frames; the first of each says when it left. 0 a second: no pause at all."""
    out = socket_of(overlay.programs["a"].pid, overlay.port["a"])
    to = ("127.0.0.1", overlay.port["r"])
    first = bytearray(frame)
    rest = frame * (burst - 1)
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", FRAME))]
    interval = burst * 1_000_000_000 // per_second if per_second else 0
    start = time.monotonic_ns()
    end, due, sent = start + int(seconds * 1e9), start, 0
    while (now := time.monotonic_ns()) < end:
        if now < due:
            time.sleep((due - now) / 1e9)
            continue
        if now - due > 20_000_000:
            due = now  # Held up: no burst to catch up.
        struct.pack_into("!Q", first, HEADER, time.time_ns())
        try:
            out.sendmsg([first, rest], control, socket.MSG_DONTWAIT, to)
            sent += burst
        except BlockingIOError:
            pass
        due += interval
    counted.put(sent)


def sink(port, ready, stop, result):
    """Latencies by the kernel's receive time, so that this program's own delays do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet:
        inlet.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        inlet.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        inlet.setsockopt(SOL_UDP, UDP_GRO, 1)
        inlet.bind(("127.0.0.1", port))
        inlet.settimeout(0.05)
        ready.set()
        latencies, frames = [], 0
        while True:
            try:
                data, control, _, _ = inlet.recvmsg(1 << 16, 256)
            except TimeoutError:
                if stop.is_set():
                    break
                continue
            seconds, nanos = next(struct.unpack("qq", value) for level, kind, value in control
                                  if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS))
            frames += len(data) // PAYLOAD
            arrived = seconds * 1_000_000_000 + nanos
            for at in range(0, len(data), PAYLOAD):
                stamp = int.from_bytes(data[at:at + 8], "big")
                if stamp:
                    latencies.append((arrived - stamp) // 1000)
        result.put((latencies, frames))


# --- Control ---

def pinger(overlay, stop, result):
    """Questions of a to r: one small message each way on the link's connection, one wake-up at r."""
    times = []
    while not stop.is_set():
        start = time.monotonic_ns()
        try:
            overlay.ask("a", {"request": "services", "peer": "r"}, 10.0)
            times.append((time.monotonic_ns() - start) // 1000)
        except (OSError, ValueError, RuntimeError):
            times.append(10_000_000)
        time.sleep(0.01)
    result.put(times)


def storm(overlay, stop):
    """Computations from every peer, and neighbours that vanish for a moment and come back."""
    peers = [f"s{n}" for n in range(STORM_PEERS)]
    turn = 0
    while not stop.is_set():
        frozen = [overlay.programs[peers[(turn + n) % STORM_PEERS]] for n in range(2)]
        for program in frozen:
            program.send_signal(signal.SIGSTOP)
        for _ in range(8):
            for name in ("r", "a"):
                try:
                    overlay.ask(name, {"request": "recompute"}, 1.0)
                except (OSError, ValueError, RuntimeError):
                    pass
            time.sleep(0.025)
        for program in frozen:
            program.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        turn += 2
    for name in peers:
        overlay.programs[name].send_signal(signal.SIGCONT)


def start(polite, target, *arguments):
    def run():
        os.setpriority(os.PRIO_PROCESS, 0, polite)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        target(*arguments)
    process = multiprocessing.Process(target=run, daemon=True)
    process.start()
    return process


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else None


def delivered_by(overlay):
    return sum(row["rx_frames"] for row in overlay.ask("r", {"request": "channels"}))


def capacity(overlay, seconds):
    """Frames a second that the relay delivers when far more are offered."""
    frame = first_frame(overlay, open_channel(overlay))
    ready, stop = multiprocessing.Event(), multiprocessing.Event()
    arrived, sent = multiprocessing.Queue(), multiprocessing.Queue()
    running = [start(-15, sink, overlay.sink_port, ready, stop, arrived)]
    ready.wait(5)
    before = delivered_by(overlay)
    running.append(start(-15, source, overlay, frame, 0, 62, seconds, sent))
    sent.get()
    after = delivered_by(overlay)
    stop.set()
    arrived.get()
    for process in running:
        process.join(5)
    return int((after - before) / seconds)


def trial(overlay, candidate, load, full, with_storm, seconds):
    # Found anew each time: a storm may have moved the channel to other labels, or closed it.
    frame = first_frame(overlay, open_channel(overlay))
    pid = overlay.programs["r"].pid
    worker_slice, control_slice, nice = CANDIDATES[candidate]
    worker = worker_thread(pid)
    schedule(worker, worker_slice, 0)
    schedule(pid, control_slice, nice)
    ready, stop = multiprocessing.Event(), multiprocessing.Event()
    arrived, sent, pings = (multiprocessing.Queue() for _ in range(3))
    deaths = overlay.link_deaths()
    running = [start(-15, sink, overlay.sink_port, ready, stop, arrived)]
    ready.wait(5)
    if with_storm:
        running.append(start(5, storm, overlay, stop))
        time.sleep(0.5)
    running.append(start(-10, pinger, overlay, stop, pings))
    session = overlay.ask("r", {"request": "status"})["session"]
    before = {thread: cpu_time(pid, thread) for thread in (worker, pid)}
    began = time.monotonic()
    burst = 62 if full else 8
    relayed = -delivered_by(overlay)
    running.append(start(-15, source, overlay, frame, load, burst, seconds, sent))
    frames = sent.get()
    took = time.monotonic() - began
    relayed += delivered_by(overlay)
    after = {thread: cpu_time(pid, thread) for thread in (worker, pid)}
    stop.set()
    latencies, delivered = arrived.get()
    times = pings.get()
    for process in running:
        process.join(5)
    later = overlay.wait_for_tree()
    share = {thread: (after[thread][0] - before[thread][0]) / 1e9 / took for thread in before}
    wanted = sum(after[worker]) - sum(before[worker])
    return {
        "candidate": candidate, "load": "full" if full else load, "storm": with_storm,
        "sent": frames, "relayed": round(relayed / frames, 4) if frames else None,
        "per_second": round(relayed / took), "seen": delivered,
        "data_p50_us": percentile(latencies, 50), "data_p99_us": percentile(latencies, 99),
        "data_p999_us": percentile(latencies, 99.9),
        "control_p50_us": percentile(times, 50), "control_p99_us": percentile(times, 99),
        "control_max_us": max(times, default=None), "control_asked": len(times),
        "worker_share": round(share[worker], 3), "control_share": round(share[pid], 3),
        "worker_wanted": round(wanted / 1e9 / took, 3),
        "sessions": [session, later["session"]],
        "longest_piece_us": later["control"]["longest_piece_us"],
        "link_deaths": overlay.link_deaths() - deaths,
    }


def summary(results):
    """Median over the rounds; a ratio is with the storm against without, of the same candidate."""
    fields = ["data_p50_us", "data_p99_us", "control_p50_us", "control_p99_us", "relayed",
              "per_second", "worker_wanted", "control_share"]
    rows = {}
    for result in results:
        key = (result["candidate"], result["load"], result["storm"])
        rows.setdefault(key, []).append(result)
    median = {key: {field: statistics.median(one[field] or 0 for one in many) for field in fields}
              | {"link_deaths": sum(one["link_deaths"] for one in many)}
              for key, many in rows.items()}
    lines = ["| lane | load | storm | data p50 us | data p99 us | p50 ratio | p99 ratio "
             "| control p50 us | control p99 us | relayed | worker wanted | control ran | deaths |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for (candidate, load, stormy), row in median.items():
        calm = median.get((candidate, load, False))
        ratio = [f"{row[f] / calm[f]:.2f}" if stormy and calm and calm[f] else ""
                 for f in ("data_p50_us", "data_p99_us")]
        lines.append(
            f"| {candidate} | {load} | {'yes' if stormy else 'no'} | {row['data_p50_us']:.0f} "
            f"| {row['data_p99_us']:.0f} | {ratio[0]} | {ratio[1]} | {row['control_p50_us']:.0f} "
            f"| {row['control_p99_us']:.0f} | {row['relayed']:.3f} | {row['worker_wanted']:.2f} "
            f"| {row['control_share']:.2f} | {row['link_deaths']} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spanway", default="target/release/spanway")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=50_000, help="frames a second below full load")
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--cpus", nargs=2, type=int, default=[0, 1], help="the relay's, the others'")
    parser.add_argument("--apart", action="store_true",
                        help="on a busy machine: a scheduling group that goes before all others")
    parser.add_argument("--out", help="every trial as JSON lines")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root: it takes a daemon's socket and reschedules its threads")
    multiprocessing.set_start_method("fork")
    relay_cpu, other_cpu = arguments.cpus
    os.sched_setaffinity(0, {other_cpu})
    if arguments.apart:
        if os.getsid(0) != os.getpid():
            parser.error("--apart needs a session of its own: run it with `setsid -w`")
        set_group(os.getpid(), -20)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        overlay = Overlay(os.path.abspath(arguments.spanway), folder, relay_cpu, other_cpu,
                          arguments.apart)
        try:
            full = int(capacity(overlay, arguments.seconds) * 1.2)
            print(f"full load: {full} frames a second, 1.2 times what the relay delivers")
            for number in range(arguments.rounds):
                for load in (arguments.rate, full):
                    for candidate in arguments.candidates:
                        for stormy in (False, True):
                            result = trial(overlay, candidate, load, load == full, stormy,
                                           arguments.seconds)
                            result["round"] = number
                            results.append(result)
                            print(json.dumps(result), flush=True)
        finally:
            overlay.stop()
    if arguments.out:
        with open(arguments.out, "w") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)
    print("\n" + summary(results))


if __name__ == "__main__":
    main()
