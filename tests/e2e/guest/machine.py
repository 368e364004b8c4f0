"""`Guest`: a real Linux guest under QEMU (TCG) as a context manager.

The kernel's console (ttyS0) goes to a log file. Commands go over a virtio-serial controller of
their own, so that neither the kernel nor a flooded port of the test can disturb them. Every wait
has a deadline, and every error carries the tail of the console.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal as signals
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import initramfs
from .control import Control, ControlLost, GuestTimeout, Job
from .initramfs import GuestError, MissingPackage
from .qmp import Qmp

QEMU = "qemu-system-x86_64"
CONTROL_PORT = "virtproxy.control"
MOST_ISA_SERIALS = 3  # a PC has four, the console takes the first
LONGEST_SOCKET_PATH = 107
# Emulated, a string move goes byte by byte with ERMS and by eight bytes without, and SMAP ends a block of
# translated code at each copy from and to a process. No real processor is slower for having them.
PROCESSOR = "max,la57=off,erms=off,smap=off"
KERNEL_ARGUMENTS = (
    "console=ttyS0 earlyprintk=ttyS0 quiet loglevel=1 panic=-1 oops=panic no_timer_check nokaslr "
    "mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=on")


class Result(NamedTuple):
    """What a command in the guest came to."""

    status: int
    output: str


class BootFailure(GuestError):
    """The guest did not come up."""


class Process:
    """A background process in the guest; `pid` is also its session and process group."""

    def __init__(self, guest: Guest, job: Job, pid: int, log_path: str) -> None:
        self._guest = guest
        self._job = job
        self.pid = pid
        self.log_path = log_path

    def kill(self, signal: int = signals.SIGTERM, timeout: float = 30) -> None:
        """Signals the whole process group; after SIGKILL it also waits for the end."""
        number = int(signal)
        self._guest.run(f"kill -{number} -- -{self.pid}", timeout)
        if number == signals.SIGKILL:
            self.wait(timeout)

    def alive(self) -> bool:
        """Whether the process itself still runs, as the guest's /proc says now."""
        if self._job.status is not None:
            return False
        script = f"read -r line < /proc/{self.pid}/stat && echo \"${{line##*) }}\""
        status, state = self._guest.run(f"{{ {script}; }} 2> /dev/null")
        return status == 0 and state[:1] not in ("Z", "X", "")

    def wait(self, timeout: float = 30) -> int:
        """The exit status (128 + signal when killed), or GuestTimeout."""
        return self._guest.wait_job(self._job, timeout)

    def log(self) -> str:
        """What the process has written to standard output and standard error so far."""
        return self._guest.get(self.log_path).decode(errors="replace")


class Guest:
    """Boots on entry, is gone on exit.

    virtio_ports: port name → path of a unix socket on which QEMU listens (wait=off).
    isa_serials: the same for ttyS1, ttyS2, ttyS3.
    extra_files: path in the guest → file here (executables must be statically linked).
    controller: properties of the virtio-serial controller that has the ports.
    kernel: instead of the newest one that is installed.
    """

    def __init__(self, *, virtio_ports: Mapping[str, Path | str] | None = None,
                 isa_serials: Sequence[Path | str] = (),
                 extra_files: Mapping[str, Path | str] | None = None,
                 memory: str = "256M", cpus: int = 1, cache_dir: Path | str | None = None,
                 boot_timeout: float = 120, qemu_arguments: Iterable[str] = (),
                 controller: str = "", kernel: initramfs.Kernel | None = None) -> None:
        self.virtio_ports = {name: str(path) for name, path in (virtio_ports or {}).items()}
        self.isa_serials = [str(path) for path in isa_serials]
        self.extra_files = dict(extra_files or {})
        self.memory, self.cpus, self.boot_timeout = memory, cpus, boot_timeout
        self.cache_dir = Path(cache_dir or Path(tempfile.gettempdir(), "virtproxy-guest-cache"))
        self.qemu_arguments = list(qemu_arguments)
        self.controller = controller
        self.kernel = kernel
        self.boot_seconds = 0.0
        self.boot_attempts = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._qmp: Qmp | None = None
        self._logs = 0
        if len(self.isa_serials) > MOST_ISA_SERIALS:
            raise GuestError(f"at most {MOST_ISA_SERIALS} isa serial ports")
        for path in [*self.virtio_ports.values(), *self.isa_serials]:
            if len(path.encode()) > LONGEST_SOCKET_PATH:
                raise GuestError(f"socket path longer than {LONGEST_SOCKET_PATH} bytes: {path}")

    # --- life -----------------------------------------------------------------------------

    def __enter__(self) -> Guest:
        if shutil.which(QEMU) is None:
            raise MissingPackage(f"no {QEMU}", "qemu-system-x86")
        kernel = self.kernel or initramfs.find_kernel()
        self._directory = tempfile.TemporaryDirectory(prefix="vpguest-")
        try:
            image = self.first_image(kernel)
            try:
                self._boot(kernel.image, image)
            except BootFailure as failure:
                # Early boot under TCG panics now and then: once is bad luck, twice is a fault.
                print(f"guest: BOOT FAILED, TRYING ONCE MORE: {failure}", file=sys.stderr,
                      flush=True)
                self._stop()
                self._boot(kernel.image, image)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def first_image(self, kernel: initramfs.Kernel) -> Path:
        """What the kernel starts with."""
        return initramfs.build(self.work_dir / "initramfs.cpio", self.cache_dir, kernel=kernel,
                               extra_files=self.extra_files)

    def kernel_arguments(self) -> str:
        """The kernel's command line."""
        return f"{KERNEL_ARGUMENTS} virtproxy.ports={len(self.virtio_ports) + 1}"

    def close(self) -> None:
        """Ends QEMU, reaps it and removes the working directory."""
        self._stop()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    @property
    def work_dir(self) -> Path:
        """Where this guest's files are until it is closed."""
        if self._directory is None:
            raise GuestError("the guest is not running")
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        if self._qemu is None:
            raise GuestError("the guest is not running")
        return self._qemu.pid

    def pin(self, cpu: int) -> None:
        """Leaves QEMU one processor of this machine."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            os.sched_setaffinity(int(thread), {cpu})

    def console(self) -> str:
        """Everything the guest's console has said."""
        try:
            return (self.work_dir / "console.log").read_text(errors="replace")
        except (OSError, GuestError):
            return ""

    def command_line(self, kernel: Path, image: Path, control: int, qmp: int) -> list[str]:
        """QEMU's command line; `control` and `qmp` are inherited socket descriptors."""
        def plain(value: object) -> str:
            return str(value).replace(",", ",,")

        words = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-machine", "pc,accel=tcg", "-cpu", PROCESSOR, "-smp", str(self.cpus),
                 "-m", self.memory, "-kernel", str(kernel), "-initrd", str(image), "-append",
                 self.kernel_arguments(),
                 "-chardev", f"file,id=console,path={plain(self.work_dir / 'console.log')}",
                 "-device", "isa-serial,chardev=console,index=0",
                 "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
                 "-device", "virtio-serial-pci,id=controller",
                 "-chardev", f"socket,id=control,fd={control}", "-device",
                 f"virtserialport,bus=controller.0,chardev=control,name={CONTROL_PORT}"]
        if self.virtio_ports:
            words += ["-device", ",".join(filter(None, ["virtio-serial-pci", "id=ports",
                                                        self.controller]))]
        for index, (name, path) in enumerate(self.virtio_ports.items()):
            words += ["-chardev", f"socket,id=port{index},path={plain(path)},server=on,wait=off",
                      "-device",
                      f"virtserialport,bus=ports.0,chardev=port{index},name={plain(name)}"]
        for index, path in enumerate(self.isa_serials, start=1):
            words += ["-chardev", f"socket,id=isa{index},path={plain(path)},server=on,wait=off",
                      "-device", f"isa-serial,chardev=isa{index},index={index}"]
        return words + self.qemu_arguments

    def _boot(self, kernel: Path, image: Path) -> None:
        self.boot_attempts += 1
        began = time.monotonic()
        (self.work_dir / "console.log").unlink(missing_ok=True)
        control, control_end = socket.socketpair()
        qmp, qmp_end = socket.socketpair()
        ends = (control_end.fileno(), qmp_end.fileno())
        with (self.work_dir / "qemu.log").open("wb") as log, control_end, qmp_end:
            self._control, self._qmp = Control(control), Qmp(qmp)
            self._qemu = subprocess.Popen(
                self.command_line(kernel, image, *ends), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, pass_fds=ends, start_new_session=True)
        try:
            # A panic needs no watching: panic=-1 reboots, -no-reboot ends QEMU, EOF tells.
            self._control.wait_ready(self.boot_timeout)
        except GuestError as error:
            self._qemu.poll()
            text = self.explain(error)
            if "guest init failed" in text or self._qemu_refused():
                raise GuestError(text) from error
            raise BootFailure(text) from error
        self.boot_seconds = time.monotonic() - began

    def _qemu_refused(self) -> bool:
        """QEMU ended with an error of its own: another try would not help."""
        assert self._qemu is not None
        try:
            return self._qemu.wait(0.5) > 0
        except subprocess.TimeoutExpired:
            return False

    def _stop(self) -> None:
        if self._qemu is not None:
            if self._qemu.poll() is None:
                self._qemu.terminate()
                try:
                    self._qemu.wait(10)
                except subprocess.TimeoutExpired:
                    self._qemu.kill()
                    self._qemu.wait()
            self._qemu = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    def explain(self, error: object) -> str:
        """The error with what QEMU and the guest's console said last."""
        parts = [str(error)]
        if self._qemu is not None and self._qemu.poll() is not None:
            parts.append(f"QEMU has ended with status {self._qemu.returncode}")
        try:
            complaints = (self.work_dir / "qemu.log").read_text(errors="replace").strip()
        except (OSError, GuestError):
            complaints = ""
        if complaints:
            parts.append(f"--- QEMU ---\n{complaints[-4000:]}")
        tail = "\n".join(self.console().splitlines()[-100:])
        parts.append(f"--- end of the guest's console ---\n{tail or '(empty)'}")
        return "\n".join(parts)

    # --- commands -------------------------------------------------------------------------

    def run_bytes(self, command: str, timeout: float = 60,
                  stdin: bytes = b"") -> tuple[int, bytes]:
        """Like `run`, with the raw output; `stdin` is what the command reads."""
        deadline = time.monotonic() + timeout
        job = self._submit(command, stdin, timeout)
        try:
            status = self.wait_job(job, deadline - time.monotonic())
        except GuestTimeout:
            if job.pid is not None:  # not waited for: the guest may be past answering
                self._submit(f"kill -9 -- -{job.pid}", b"", timeout=1)
            raise
        return status, job.output

    def run(self, command: str, timeout: float = 60, stdin: bytes = b"") -> Result:
        """Runs shell text in the guest: exit status, and standard output and error together.

        May be called from several threads at once. When time is up, the command's process
        group is killed and GuestTimeout raised.
        """
        status, output = self.run_bytes(command, timeout, stdin)
        return Result(status, output.decode(errors="replace"))

    def check(self, command: str, timeout: float = 60, stdin: bytes = b"") -> str:
        """The output of a command that must succeed."""
        status, output = self.run(command, timeout, stdin)
        if status != 0:
            raise GuestError(self.explain(f"status {status} from: {command}\n{output}"))
        return output

    def start(self, command: str | Sequence[str], timeout: float = 60) -> Process:
        """Starts a background process: a list is executed as it is, text runs in a shell."""
        self._logs += 1
        log_path = f"/tmp/log.{self._logs}"
        if not isinstance(command, str):
            command = "exec " + shlex.join(command)
        job = self._submit(f"exec > {log_path} 2>&1 < /dev/null\n{command}", b"", timeout)
        try:
            assert self._control is not None
            return Process(self, job, self._control.wait_started(job, timeout), log_path)
        except GuestError as error:
            raise type(error)(self.explain(error)) from error

    def wait_for(self, command: str, timeout: float = 30) -> str:
        """Repeats a command in the guest until it succeeds; its output then, less end newlines."""
        script = (
            "read -r now _ < /proc/uptime\n"
            f"end=$(( ${{now%.*}} + {max(1, round(timeout))} ))\n"
            f"until output=$( {{ {command}\n}} 2>&1 ); do\n"
            "    read -r now _ < /proc/uptime\n"
            "    [ \"${now%.*}\" -le \"$end\" ] || { printf %s \"$output\"; exit 124; }\n"
            "    usleep 20000\n"
            "done\nprintf %s \"$output\"\n")
        status, output = self.run(script, timeout + 30)
        if status != 0:
            raise GuestTimeout(self.explain(
                f"not true after {timeout:g} s: {command}\nlast output: {output}"))
        return output

    def put(self, local_file: Path | str, path: str, timeout: float = 60) -> None:
        """Copies a small file into the guest, with its execute permission."""
        local_file = Path(local_file)
        mode = "755" if local_file.stat().st_mode & 0o111 else "644"
        target = shlex.quote(path)
        self.check(f"cat > {target} && chmod {mode} {target}", timeout, local_file.read_bytes())

    def get(self, path: str, timeout: float = 60) -> bytes:
        """The content of a small file in the guest."""
        status, output = self.run_bytes(f"cat {shlex.quote(path)}", timeout)
        if status != 0:
            raise GuestError(self.explain(f"cannot get {path}: {output.decode()}"))
        return output

    def wait_job(self, job: Job, timeout: float) -> int:
        """A job's exit status, or GuestTimeout."""
        assert self._control is not None
        try:
            if self._control.wait_ended(job, timeout):
                assert job.status is not None
                return job.status
        except ControlLost as error:
            raise ControlLost(self.explain(f"{error}, while waiting for: {job.command}")) from error
        raise GuestTimeout(self.explain(f"not over after {timeout:g} s: {job.command}"))

    def _submit(self, command: str, stdin: bytes, timeout: float) -> Job:
        if self._control is None:
            raise GuestError("the guest is not running")
        try:
            return self._control.submit(command, stdin, timeout)
        except GuestError as error:
            raise type(error)(self.explain(error)) from error

    # --- the machine ----------------------------------------------------------------------

    def qmp(self, command: str, **arguments: object) -> object:
        """One QMP command's return value."""
        if self._qmp is None:
            raise GuestError("the guest is not running")
        return self._qmp.execute(command, **arguments)

    def wait_off(self, timeout: float) -> None:
        """Until QEMU has ended by itself, because the guest was powered off."""
        assert self._qemu is not None
        try:
            status = self._qemu.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise GuestTimeout(self.explain(f"not off after {timeout:g} s")) from error
        if status != 0:
            raise GuestError(self.explain("not an orderly end"))

    def vm_pause(self) -> None:
        """Stops the guest's processors; its clock stands still."""
        self.qmp("stop")

    def vm_resume(self) -> None:
        """Lets the guest go on."""
        self.qmp("cont")
