//! A replica set of real servers.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mongolink::bson::{Bson, Document, doc};
use mongolink::{Client, ClientBuilder, Mechanism, Secret, ServerAddress, ServerType, TopologyDescription};
use tokio::sync::Mutex;

use super::{Authority, CALL, Folder, Server, TEST, create_user, mongod, view, within};

/// The set's name.
pub(crate) const NAME: &str = "live";

/// How many members it has.
pub(crate) const MEMBERS: usize = 3;

/// Three servers are as much as a small machine carries at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// The users and TLS settings of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Everybody, in clear.
    Open,
    /// Users only, over TLS with a private authority; members know each other by a key file.
    Users,
}

/// A user with a password.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
    /// The mechanisms that the server keeps credentials for.
    pub(crate) mechanisms: &'static [Mechanism],
}

/// May do everything.
pub(crate) const ROOT: User =
    User { name: "root", password: "the root of all trees", mechanisms: &[Mechanism::ScramSha1, Mechanism::ScramSha256] };

/// A replica set of three, ready for writes.
pub(crate) struct ReplicaSet {
    members: Vec<Server>,
    host: &'static str,
    papers: Option<Papers>,
}

/// The files of a set with users.
struct Papers {
    folder: Folder,
    authority: PathBuf,
    client: PathBuf,
}

/// Runs a scenario on a new set, when no other test has one; skips it without mongod.
pub(crate) async fn with_set(security: Security, scenario: impl AsyncFnOnce(&mut ReplicaSet)) {
    let Some(program) = mongod() else { return };
    let _turn = TURN.lock().await;
    within(TEST, async {
        let mut set = ReplicaSet::start(&program, security).await;
        scenario(&mut set).await;
    })
    .await;
}

impl ReplicaSet {
    async fn start(program: &Path, security: Security) -> Self {
        let mut further = vec!["--replSet".to_owned(), NAME.to_owned()];
        let (host, papers) = match security {
            Security::Open => ("127.0.0.1", None),
            Security::Users => ("localhost", Some(Papers::new(&mut further))),
        };
        let start = || Server::mongod(program, &further);
        let (first, second, third) = tokio::join!(start(), start(), start());
        let set = Self { members: vec![first, second, third], host, papers };
        set.initiate().await;
        if security == Security::Users {
            set.create_root().await;
        }
        set
    }

    /// Starts a client of the set that has no user.
    pub(crate) fn builder(&self) -> ClientBuilder {
        let hosts: Vec<String> = self.members.iter().map(|member| self.address(member)).collect();
        self.trusting(&format!("mongodb://{}/?replicaSet={NAME}&heartbeatFrequencyMS=500", hosts.join(",")))
    }

    /// Starts a client of the set for a user.
    pub(crate) fn builder_for(&self, user: User) -> ClientBuilder {
        self.builder().username(user.name).password(Secret::new(user.password))
    }

    /// Starts a client from a connection string; if the set speaks TLS, it trusts the set's authority.
    pub(crate) fn trusting(&self, uri: &str) -> ClientBuilder {
        let builder = Client::builder(uri).expect("a connection string");
        match &self.papers {
            Some(papers) => builder.tls(true).tls_ca_file(papers.authority.clone()),
            None => builder,
        }
    }

    /// Starts a client that talks to one member only.
    pub(crate) fn direct(&self, host: &ServerAddress) -> ClientBuilder {
        self.trusting(&format!("mongodb://{host}/?directConnection=true"))
    }

    /// Makes a client that may do everything.
    pub(crate) fn root(&self) -> Client {
        let builder = if self.papers.is_some() { self.builder_for(ROOT) } else { self.builder() };
        builder.build().expect("a client")
    }

    /// Returns the file of a client's certificate and key.
    pub(crate) fn client_certificate(&self) -> PathBuf {
        self.papers.as_ref().expect("a set with users").client.clone()
    }

    /// Writes a file that lives as long as the set.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        self.papers.as_ref().expect("a set with users").folder.file(name, text)
    }

    /// Returns the hosts as a connection string has them.
    pub(crate) fn hosts(&self) -> Vec<ServerAddress> {
        self.members.iter().map(|member| ServerAddress::parse(&self.address(member)).expect("a host")).collect()
    }

    /// Returns the member that a client knows by this name.
    pub(crate) fn member(&mut self, host: &ServerAddress) -> &mut Server {
        self.members.iter_mut().find(|member| member.port() == host.port()).expect("a member of this set")
    }

    /// Counts the logins that the members have noted, of a user with a mechanism, in the words of hello or after it.
    pub(crate) fn logins(&self, user: &str, mechanism: Mechanism, speculative: bool) -> usize {
        let noted = |line: &str| {
            line.contains("\"Authentication succeeded\"")
                && line.contains(&format!("\"principalName\":\"{user}\""))
                && line.contains(&format!("\"mechanism\":\"{}\"", mechanism.name()))
                && line.contains(&format!("\"speculative\":{speculative}"))
        };
        self.members.iter().map(|member| member.log().lines().filter(|line| noted(line)).count()).sum()
    }

    /// Waits until a client knows a primary and two secondaries.
    pub(crate) async fn settle(&self, client: &Client) -> ServerAddress {
        let known = view(client, "a primary and two secondaries", is_settled).await;
        known.primary().expect("settled").host.clone()
    }

    async fn initiate(&self) {
        let members: Vec<Bson> =
            (0_i32..).zip(&self.members).map(|(id, member)| doc! { "_id": id, "host": self.address(member) }.into()).collect();
        // Short times make short tests.
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 2 };
        let config = doc! { "_id": NAME, "members": members, "settings": settings };
        let hosts = self.hosts();
        let first = self.direct(hosts.first().expect("a member")).build().expect("a client");
        first.database("admin").run_command(doc! { "replSetInitiate": config }).timeout(CALL).await.expect("initiated");
        first.shutdown().await;
        let client = self.builder().build().expect("a client");
        self.settle(&client).await;
        client.shutdown().await;
    }

    /// Makes the first user, as mongod allows from its own machine.
    async fn create_root(&self) {
        let client = self.builder().build().expect("a client");
        create_user(&client, "admin", ROOT.to_command()).await;
        client.shutdown().await;
    }

    fn address(&self, member: &Server) -> String {
        format!("{}:{}", self.host, member.port())
    }
}

impl User {
    /// Returns the command that creates it.
    pub(crate) fn to_command(self) -> Document {
        let mechanisms: Vec<&str> = self.mechanisms.iter().map(|mechanism| mechanism.name()).collect();
        doc! { "createUser": self.name, "pwd": self.password, "roles": ["root"], "mechanisms": mechanisms }
    }
}

impl Papers {
    /// Writes the files, and adds the arguments that name them.
    fn new(arguments: &mut Vec<String>) -> Self {
        let folder = Folder::new();
        let authority = Authority::new("mongolink live tests");
        let authority_file = folder.file("authority.pem", &authority.pem());
        let server = folder.file("server.pem", &authority.server_pem());
        let client = folder.file("client.pem", &authority.client_pem());
        let key = folder.file("key", &random_text());
        arguments.extend(["--auth", "--tlsAllowConnectionsWithoutCertificates", "--tlsMode", "requireTLS"].map(str::to_owned));
        arguments.extend(["--setParameter", "authenticationMechanisms=SCRAM-SHA-1,SCRAM-SHA-256,MONGODB-X509"].map(str::to_owned));
        for (switch, file) in [("--keyFile", &key), ("--tlsCertificateKeyFile", &server), ("--tlsCAFile", &authority_file)] {
            arguments.extend([switch.to_owned(), file.display().to_string()]);
        }
        Self { folder, authority: authority_file, client }
    }
}

/// Tells whether a primary and two secondaries are known.
fn is_settled(topology: &TopologyDescription) -> bool {
    let secondaries = topology.servers().iter().filter(|server| server.kind == ServerType::RsSecondary).count();
    topology.primary().is_some() && secondaries == MEMBERS - 1
}

/// Makes up what the members know each other by.
fn random_text() -> String {
    let mut text = String::new();
    for _ in 0..6 {
        write!(text, "{}", mongolink::bson::oid::ObjectId::new()).expect("memory");
    }
    text
}
