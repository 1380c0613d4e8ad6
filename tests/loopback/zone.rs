//! Which records does DNS have, now?
//!
//! A DNS server on loopback whose records a test changes while it runs, and which can fall silent or refuse. It counts
//! what it is asked.

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

/// What the server makes of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers from its records.
    Answering,
    /// It reads and says nothing.
    Silent,
    /// It refuses to answer.
    Refusing,
}

/// Answers for every name there is, by UDP, until it is dropped.
pub(crate) struct Zone {
    address: SocketAddr,
    records: Arc<Records>,
    shared: Arc<Shared>,
    _server: Server<Desk>,
}

struct Shared {
    mood: Mutex<Mood>,
    asked: Mutex<Vec<(String, RecordType)>>,
}

/// Takes the questions.
struct Desk {
    shared: Arc<Shared>,
    answering: Catalog,
    /// Knows no zone, and so refuses.
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
        let shared = Arc::new(Shared { mood: Mutex::new(Mood::Answering), asked: Mutex::default() });
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let mut server = Server::new(Desk { shared: Arc::clone(&shared), answering, refusing: Catalog::new() });
        server.register_socket(socket);
        Self { address, records, shared, _server: server }
    }

    /// Returns what makes a client ask this server.
    pub(crate) fn dns(&self) -> DnsConfig {
        DnsConfig::Servers(vec![self.address])
    }

    /// Replaces the SRV records of a name, all at once: targets with their ports.
    pub(crate) async fn serve(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let services = targets.iter().enumerate().map(|(number, (target, port))| {
            // Priorities and weights differ, and mean nothing.
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

    /// Changes what the server makes of questions.
    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().expect("mood") = mood;
    }

    /// Returns how often it was asked for records of a type.
    pub(crate) fn asked(&self, kind: RecordType) -> usize {
        self.shared.asked.lock().expect("asked").iter().filter(|(_, asked)| *asked == kind).count()
    }

    /// Returns every question so far, sorted, each once.
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

impl Desk {
    async fn answer<R: ResponseHandler, T: Time>(&self, request: &Request, response: R) -> ResponseInfo {
        if let Ok(info) = request.request_info() {
            let question = (info.query.name().to_string(), info.query.query_type());
            self.shared.asked.lock().expect("asked").push(question);
        }
        let mood = *self.shared.mood.lock().expect("mood");
        match mood {
            Mood::Answering => self.answering.handle_request::<R, T>(request, response).await,
            Mood::Refusing => self.refusing.handle_request::<R, T>(request, response).await,
            Mood::Silent => std::future::pending().await,
        }
    }
}

impl RequestHandler for Desk {
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
