//! The real daemon with a home of its own, and C programs that are compiled against what the build laid out.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use weightsd_samples::{Checkpoint, Contents, Dims, Written};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of the profile that this test was built in.
fn profile() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// The daemon's program, which lies beside this test.
fn program() -> PathBuf {
    let program = profile().join("weightsd");
    assert!(program.exists(), "{} is missing: build it with `cargo build -p weightsd`", program.display());
    program
}

/// What programs are compiled and linked with.
pub(crate) fn prefix() -> PathBuf {
    profile().join("weightsd-c")
}

/// A folder with a model and a place for a socket.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        let mode = fs::Permissions::from_mode(0o700);
        Home { folder: tempfile::Builder::new().prefix("wd-").permissions(mode).tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("weightsd.sock")
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.path().join("model")
    }

    /// A model of 2 MB.
    pub(crate) fn tiny(&self) -> Written {
        let checkpoint = Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 1 }).unwrap();
        checkpoint.write_directory(self.model()).unwrap()
    }

    /// A model of 33 GB that takes no room on the disk.
    pub(crate) fn sparse(&self) -> Written {
        Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap().write_directory(self.model()).unwrap()
    }

    /// Writes down what the files of a component hold, as the writer of the files knows it, for `check`.
    pub(crate) fn manifest(&self, written: &Written, component: &str) -> PathBuf {
        let mut text = String::new();
        for tensor in written.tensors_of(component) {
            let (path, range) = (written.path_of(tensor), &tensor.range);
            let shape: String = tensor.shape.iter().map(|dimension| format!(" {dimension}")).collect();
            text += &format!(
                "{} {} {} {} {} {}{shape}\n",
                tensor.name,
                tensor.dtype,
                path.display(),
                range.start,
                range.end - range.start,
                tensor.shape.len()
            );
        }
        let path = self.path().join(format!("{component}.manifest"));
        fs::write(&path, text).unwrap();
        path
    }

    /// A command with nothing of the user's around it.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HF_")) {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path())
            .env("WEIGHTSD_CONFIG", "/dev/null")
            .env("WEIGHTSD_SOCKET", self.socket())
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("XDG_CACHE_HOME")
            .current_dir(self.path());
        command
    }

    /// A daemon that is ready.
    pub(crate) fn daemon(&self) -> Daemon {
        let mut command = self.command(program());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path().join("log")).unwrap();
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = Daemon { child: command.spawn().unwrap(), home: self.path().to_owned() };
        eventually("the daemon listens", || UnixStream::connect(self.socket()).is_ok());
        daemon
    }
}

/// A running daemon, killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    home: PathBuf,
}

impl Daemon {
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What its command line says.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program());
        command.env("HOME", &self.home).env("WEIGHTSD_CONFIG", "/dev/null").arg("--socket");
        let output = command.arg(self.home.join("weightsd.sock")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What watches over the programs: nothing, `valgrind` or `asan`, as `WEIGHTSD_C_TOOL` says.
pub(crate) fn tool() -> String {
    env::var("WEIGHTSD_C_TOOL").unwrap_or_default()
}

/// How a program is linked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    Shared,
    Static,
}

/// Compiles a program of `client/c` with every warning an error, against the headers in `include`.
pub(crate) fn compile(source: &str, include: &Path, linked: Linked, into: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let is_cpp = source.extension().is_some_and(|extension| extension == "cpp");
    let (compiler, standard) = if is_cpp { ("c++", "-std=c++17") } else { ("cc", "-std=c99") };
    let program = into.join(source.file_stem().unwrap());
    let mut command = Command::new(compiler);
    command.args([standard, "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    if tool() == "asan" {
        command.args(["-fsanitize=address", "-fno-omit-frame-pointer"]);
    }
    command.arg("-I").arg(include).arg(source).arg("-o").arg(&program);
    let library = prefix().join("lib");
    match linked {
        Linked::Shared => {
            command.arg("-L").arg(&library).arg("-lweightsd");
            command.arg(format!("-Wl,-rpath,{}", library.display()));
        }
        Linked::Static => {
            command.arg(library.join("libweightsd.a"));
            command.args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]);
        }
    }
    let output = command.arg("-lpthread").output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// A running C program.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(home: &Home, program: &Path, arguments: &[&str]) -> Running {
        let mut command = if tool() == "valgrind" {
            let mut command = home.command("valgrind");
            // A mistake, and memory that nothing leads to any more, end it with a code of their own. What is "possibly"
            // lost is not: Rust's shared values are held by pointers to their middle, and statics hold some to the end.
            command.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
            command.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]).arg(program);
            command
        } else {
            home.command(program)
        };
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Running { child, input, output }
    }

    /// The next line that it prints; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Tells it to go on.
    pub(crate) fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b".").unwrap();
    }

    /// Ends it.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends well. What it printed last.
    pub(crate) fn end(mut self) -> String {
        drop(self.input.take());
        let mut last = String::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            last = line;
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the program ended with {status}");
        last
    }
}
