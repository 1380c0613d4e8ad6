//! initial-dns-seedlist-discovery: options in records and in the connection string.

use std::time::{Duration, Instant};

use mongolink::dns::{Rescan, RescanAction, RescanConfig};
use mongolink::uri::{apply_txt, validate};
use mongolink::{ClientOptions, ConnectionString, ErrorKind};

fn options(text: &str) -> ClientOptions {
    ConnectionString::parse(text).expect(text).options
}

fn with_txt(text: &str, records: &[&[&str]]) -> Result<ClientOptions, mongolink::Error> {
    let mut options = options(text);
    let records: Vec<Vec<Vec<u8>>> = records.iter().map(|record| record.iter().map(|part| part.as_bytes().to_vec()).collect()).collect();
    apply_txt(&mut options, &mut Vec::new(), &records)?;
    validate(&options)?;
    Ok(options)
}

#[test]
fn records_may_give_three_options_in_one_record_of_several_strings() {
    let read = with_txt("mongodb+srv://db.example.com/", &[&["authSour", "ce=x&replica", "Set=rs"]]).expect("options");
    assert_eq!((read.auth_source.as_deref(), read.replica_set.as_deref()), (Some("x"), Some("rs")));
    assert_eq!(with_txt("mongodb+srv://db.example.com/", &[&["loadBalanced=true"]]).expect("options").load_balanced, Some(true));
    for records in [&[&["replicaSet=rs"][..], &["authSource=x"]][..], &[&["ssl=false"]], &[&["tls=false"]], &[&["maxPoolSize=3"]]] {
        assert_eq!(with_txt("mongodb+srv://db.example.com/", records).expect_err("refusal").kind(), ErrorKind::DnsRule, "{records:?}");
    }
}

#[test]
fn connection_string_overrides_records_and_alone_turns_tls_off() {
    let read = with_txt("mongodb+srv://db.example.com/?replicaSet=own", &[&["replicaSet=rs"]]).expect("options");
    assert_eq!(read.replica_set.as_deref(), Some("own"));
    assert!(options("mongodb+srv://db.example.com/").tls_or_default());
    assert!(!options("mongodb+srv://db.example.com/?tls=false").tls_or_default());
    assert!(!options("mongodb+srv://db.example.com/?ssl=false").tls_or_default());
    assert!(!options("mongodb://db.example.com/").tls_or_default());
}

#[test]
fn contradictions_with_records_are_found_once_they_are_known() {
    let text = "mongodb+srv://db.example.com/?srvMaxHosts=1";
    assert!(with_txt(text, &[]).is_ok());
    assert!(with_txt(text, &[&["replicaSet=rs"]]).is_err());
    assert!(with_txt(text, &[&["loadBalanced=true"]]).is_err());
    assert!(with_txt("mongodb+srv://db.example.com/?srvMaxHosts=0", &[&["replicaSet=rs"]]).is_ok());
}

#[test]
fn name_of_records_stands_alone_and_without_a_port() {
    for text in ["mongodb+srv://db.example.com:27017/", "mongodb+srv://a.example.com,b.example.com/"] {
        ConnectionString::parse(text).expect_err(text);
    }
    for text in ["mongodb+srv://localhost/", "mongodb+srv://mongo.local/"] {
        ConnectionString::parse(text).expect(text);
    }
}

#[test]
fn options_of_records_need_a_name_of_records() {
    for text in ["mongodb://a/?srvServiceName=x", "mongodb://a/?srvMaxHosts=2"] {
        ConnectionString::parse(text).expect_err(text);
    }
    let read = options("mongodb+srv://db.example.com/?srvServiceName=x&srvMaxHosts=2");
    assert_eq!((read.srv_service_name_or_default(), read.srv_max_hosts), ("x", Some(2)));
    assert_eq!(options("mongodb+srv://db.example.com/").srv_service_name_or_default(), "mongodb");
}

#[test]
fn no_setting_turns_srv_polling_off() {
    let now = Instant::now();
    let ever = Duration::MAX;
    for (floor, ttl) in [(ever, None), (ever, Some(ever)), (Duration::ZERO, Some(ever)), (Duration::ZERO, None)] {
        let config = RescanConfig { host: "db.example.com".into(), floor, heartbeat_frequency: ever, look_up_limit: ever };
        let mut rescan = Rescan::new(config, ttl, now);
        for _ in 0..3 {
            let (due, _) = rescan.poll_timeout().expect("it is looked at again");
            rescan.handle_timeout(due);
            assert_eq!(rescan.poll_action(), Some(RescanAction::Query));
            rescan.handle_failed(&mongolink::Error::new(ErrorKind::DnsFailed, "down"), due);
            assert!(!rescan.is_stopped());
        }
    }
    for option in ["srvPolling=false", "rescanSRVIntervalMS=0", "srvRescanIntervalMS=0"] {
        let read = ConnectionString::parse(&format!("mongodb+srv://db.example.com/?{option}")).expect("read");
        assert_eq!(read.warnings.len(), 1, "{option} is no option");
    }
}
