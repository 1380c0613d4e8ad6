//! A DNS server on loopback with records that a test changes while it runs.
//!
//! It can stop answering or refuse, and records its queries.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use hickory_server::Server;
use hickory_server::net::runtime::{Time, TokioRuntimeProvider};
use hickory_server::proto::rr::rdata::{SOA, SRV, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordSet, RecordType, RrKey};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use mongolink::DnsConfig;
use tokio::net::UdpSocket;

type Records = InMemoryZoneHandler<TokioRuntimeProvider>;

/// How the server treats queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerMode {
    /// It answers from its records.
    Answering,
    /// It reads queries and does not answer.
    Silent,
    /// It refuses to answer.
    Refusing,
}

/// A server for all names, by UDP. Stops on drop.
pub(crate) struct Zone {
    address: SocketAddr,
    records: Arc<Records>,
    shared: Arc<Shared>,
    _server: Server<ZoneHandler>,
}

struct Shared {
    mode: Mutex<ServerMode>,
    asked: Mutex<Vec<(String, RecordType)>>,
}

/// The handler of queries.
struct ZoneHandler {
    shared: Arc<Shared>,
    answering: Catalog,
    /// A catalogue without zones, which refuses.
    refusing: Catalog,
}

impl Zone {
    /// Starts a server without records.
    pub(crate) async fn start() -> Self {
        let mut records = Records::empty(Name::root(), ZoneType::Primary, AxfrPolicy::Deny);
        let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, 60);
        assert!(records.upsert_mut(Record::from_rdata(Name::root(), 86_400, RData::SOA(soa)), 1));
        let records = Arc::new(records);
        let mut answering = Catalog::new();
        answering.upsert(LowerName::new(&Name::root()), vec![Arc::clone(&records) as _]);
        let shared = Arc::new(Shared { mode: Mutex::new(ServerMode::Answering), asked: Mutex::default() });
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let mut server = Server::new(ZoneHandler { shared: Arc::clone(&shared), answering, refusing: Catalog::new() });
        server.register_socket(socket);
        Self { address, records, shared, _server: server }
    }

    /// Returns the configuration of a client that uses this server.
    pub(crate) fn dns(&self) -> DnsConfig {
        DnsConfig::Servers(vec![self.address])
    }

    /// Replaces the SRV records of a name, all at once: targets with their ports.
    pub(crate) async fn serve(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let services = targets.iter().enumerate().map(|(number, (target, port))| {
            // Priorities and weights differ, and have no effect.
            let place = u16::try_from(number).expect("few targets");
            RData::SRV(SRV::new(place, 100 * place, *port, full(target)))
        });
        self.replace(name, RecordType::SRV, ttl, services.collect()).await;
    }

    /// Replaces the TXT records of a name.
    pub(crate) async fn tell(&self, name: &str, texts: &[&[&str]]) {
        let texts = texts.iter().map(|strings| RData::TXT(TXT::new(strings.iter().map(|text| (*text).to_owned()).collect())));
        self.replace(name, RecordType::TXT, 0, texts.collect()).await;
    }

    async fn replace(&self, name: &str, kind: RecordType, ttl: u32, data: Vec<RData>) {
        let name = full(name);
        let key = RrKey::new(LowerName::new(&name), kind);
        let mut set = RecordSet::with_ttl(name.clone(), kind, ttl);
        for data in data {
            assert!(set.insert(Record::from_rdata(name.clone(), ttl, data), 1));
        }
        let mut records = self.records.records_mut().await;
        if set.is_empty() {
            records.remove(&key);
        } else {
            records.insert(key, Arc::new(set));
        }
    }

    /// Changes how the server treats queries.
    pub(crate) fn set_mode(&self, mode: ServerMode) {
        *self.shared.mode.lock().expect("mode") = mode;
    }

    /// Returns the number of queries for a record type.
    pub(crate) fn asked(&self, kind: RecordType) -> usize {
        self.shared.asked.lock().expect("asked").iter().filter(|(_, asked)| *asked == kind).count()
    }

    /// Returns all queries so far, sorted, each once.
    pub(crate) fn questions(&self) -> Vec<(String, RecordType)> {
        let mut asked = self.shared.asked.lock().expect("asked").clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

/// Reads a full name.
fn full(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).expect("a name")
}

impl ZoneHandler {
    async fn answer<R: ResponseHandler, T: Time>(&self, request: &Request, response: R) -> ResponseInfo {
        if let Ok(info) = request.request_info() {
            let question = (info.query.name().to_string(), info.query.query_type());
            self.shared.asked.lock().expect("asked").push(question);
        }
        let mode = *self.shared.mode.lock().expect("mode");
        match mode {
            ServerMode::Answering => self.answering.handle_request::<R, T>(request, response).await,
            ServerMode::Refusing => self.refusing.handle_request::<R, T>(request, response).await,
            ServerMode::Silent => std::future::pending().await,
        }
    }
}

impl RequestHandler for ZoneHandler {
    fn handle_request<'desk, 'request, 'answer, R, T>(
        &'desk self,
        request: &'request Request,
        response: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'answer>>
    where
        R: 'answer + ResponseHandler,
        T: 'answer + Time,
        'desk: 'answer,
        'request: 'answer,
        Self: 'answer,
    {
        Box::pin(self.answer::<R, T>(request, response))
    }
}
