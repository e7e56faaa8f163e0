//! A name server of a test's own: authoritative for what the test puts into its zone, over UDP and TCP,
//! and able to fail or to say nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    Fails,
    Silent,
}

/// The zone, shared with the server.
#[derive(Clone)]
struct Zone {
    /// By name in lower case with its last dot: the strings of each TXT record.
    records: Arc<Mutex<HashMap<String, Vec<Vec<String>>>>>,
    /// As `records`: the addresses of each name.
    addresses: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicU64>,
}

pub struct NameServer {
    zone: Zone,
    pub address: SocketAddr,
    /// Ends with this value.
    _server: Server<Zone>,
}

impl NameServer {
    pub async fn start() -> Self {
        let zone = Zone {
            records: Arc::default(),
            addresses: Arc::default(),
            mood: Arc::new(Mutex::new(Mood::Answers)),
            asked: Arc::default(),
        };
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let mut server = Server::new(zone.clone());
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 16);
        Self { zone, address, _server: server }
    }

    /// The TXT records at `name`, each of several strings; none: the name is not there.
    pub fn set(&self, name: &str, records: &[&[&str]]) {
        let owned = |record: &&[&str]| record.iter().map(|s| (*s).to_owned()).collect();
        let records: Vec<Vec<String>> = records.iter().map(owned).collect();
        let mut zone = self.zone.records.lock().unwrap();
        let key = format!("{name}.");
        if records.is_empty() {
            zone.remove(&key)
        } else {
            zone.insert(key, records)
        };
    }

    /// Where `name` leads; nowhere: it has no address.
    pub fn lead(&self, name: &str, to: &[&str]) {
        let to = to.iter().map(|address| address.parse().unwrap()).collect();
        self.zone.addresses.lock().unwrap().insert(format!("{name}."), to);
    }

    pub fn mood(&self, mood: Mood) {
        *self.zone.mood.lock().unwrap() = mood;
    }

    /// Questions so far.
    pub fn asked(&self) -> u64 {
        self.zone.asked.load(Ordering::SeqCst)
    }
}

/// The same port for both.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both");
}

impl Zone {
    /// What is at the name, and the code that goes with it.
    fn find(&self, name: &str, kind: RecordType) -> (Vec<Record>, ResponseCode) {
        let (records, addresses) = (self.records.lock().unwrap(), self.addresses.lock().unwrap());
        let (texts, addresses) = (records.get(name), addresses.get(name));
        if texts.is_none() && addresses.is_none() {
            return (Vec::new(), ResponseCode::NXDomain);
        }
        let owner = Name::from_ascii(name).unwrap();
        let record = |data| Record::from_rdata(owner.clone(), 3_600, data);
        let texts = texts.into_iter().flatten().map(|strings| RData::TXT(TXT::new(strings.clone())));
        let addresses = addresses.into_iter().flatten().map(|address| match address {
            IpAddr::V4(v4) => RData::A((*v4).into()),
            IpAddr::V6(v6) => RData::AAAA((*v6).into()),
        });
        let found = texts.chain(addresses).map(record).filter(|record| record.record_type() == kind);
        (found.collect(), ResponseCode::NoError)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Silent {
            return ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        }
        let builder = MessageResponseBuilder::from_message_request(request);
        if mood == Mood::Fails {
            return handle
                .send_response(builder.error_msg(&request.metadata, ResponseCode::ServFail))
                .await
                .unwrap();
        }
        let info = request.request_info().unwrap();
        let (answers, code) =
            self.find(&info.query.name().to_string().to_lowercase(), info.query.query_type());
        metadata.authoritative = true;
        metadata.response_code = code;
        let root = Name::root();
        let soa =
            Record::from_rdata(root.clone(), 3_600, RData::SOA(SOA::new(root.clone(), root, 1, 1, 1, 1, 1)));
        let soa: Vec<Record> = if answers.is_empty() { vec![soa] } else { Vec::new() };
        let response = builder.build(metadata, answers.iter(), [], soa.iter(), []);
        handle.send_response(response).await.unwrap()
    }
}
