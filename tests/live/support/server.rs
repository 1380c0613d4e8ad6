//! A real server's process: start, faults and end.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Folder, eventually};

/// How long a server may take to start or to end.
const START: Duration = Duration::from_secs(60);

/// How often another port is tried, if another process takes the port before the server starts.
const TRIES: usize = 3;

/// A server's process with its data, both gone when dropped.
pub(crate) struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    child: Child,
    folder: Folder,
}

impl Server {
    /// Starts mongod with further arguments, and waits until it listens.
    pub(crate) async fn mongod(program: &Path, further: &[String]) -> Self {
        let fixed = "--bind_ip 127.0.0.1 --nounixsocket --wiredTigerCacheSizeGB 0.25 --setParameter enableTestCommands=1 \
                     --setParameter diagnosticDataCollectionEnabled=false";
        let arguments = fixed.split(' ').map(str::to_owned).chain(further.iter().cloned()).collect();
        Self::start(program, arguments, "--dbpath").await
    }

    /// Starts SecantusDB, and waits until it listens.
    pub(crate) async fn secantus(program: &Path) -> Self {
        let arguments = "--cache-size 64M --enable-test-commands".split(' ').map(str::to_owned).collect();
        Self::start(program, arguments, "--storage-path").await
    }

    async fn start(program: &Path, arguments: Vec<String>, data_switch: &str) -> Self {
        let mut log = String::new();
        for _ in 0..TRIES {
            let folder = Folder::new();
            let data = folder.path().join("data");
            fs::create_dir(&data).expect("a folder for data");
            let mut arguments = arguments.clone();
            arguments.extend([data_switch.to_owned(), data.display().to_string()]);
            let port = free_port();
            let child = spawn(program, &arguments, port, &folder);
            let mut server = Self { program: program.to_owned(), arguments, port, child, folder };
            match server.listens().await {
                Ok(()) => return server,
                Err(status) => log = format!("{status}\n{}", server.log()),
            }
        }
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        panic!("{} does not start, its last words, the last first:\n{}", program.display(), tail.join("\n"));
    }

    /// Returns the address.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Returns the port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns what it has written so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(log_file(&self.folder)).expect("a log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn terminate(&mut self) {
        self.signal("TERM");
        let child = &mut self.child;
        eventually("end of the server", START, async || child.try_wait().expect("asked").is_some()).await;
    }

    /// Stops all its threads: it is there, and says nothing.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Starts it again where it was, with its data and further arguments.
    pub(crate) async fn restart(&mut self, further: &[&str]) {
        self.arguments.extend(further.iter().map(|&argument| argument.to_owned()));
        self.child = spawn(&self.program, &self.arguments, self.port, &self.folder);
        if let Err(status) = self.listens().await {
            panic!("does not start again: {status}\n{}", self.log());
        }
    }

    /// Waits until it accepts connections, or has ended.
    async fn listens(&mut self) -> Result<(), ExitStatus> {
        let (port, child) = (self.port, &mut self.child);
        let mut ended = None;
        eventually("a server that listens", START, async || {
            let connected = TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            ended = child.try_wait().expect("asked");
            connected || ended.is_some()
        })
        .await;
        ended.map_or(Ok(()), Err)
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success(), "the server is gone");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(program: &Path, arguments: &[String], port: u16, folder: &Folder) -> Child {
    let log = File::options().create(true).append(true).open(log_file(folder)).expect("a log");
    let mut command = Command::new(program);
    command.args(arguments).args(["--port", &port.to_string()]).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    command.spawn().expect("the program runs")
}

fn log_file(folder: &Folder) -> PathBuf {
    folder.path().join("log")
}

/// Finds a port below those that the system gives to clients, so that it is still free after a restart.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 100).expect("below 100");
    loop {
        let port = 20_000 + (process * 120 + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
