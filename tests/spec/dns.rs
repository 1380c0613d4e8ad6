//! Runs initial-dns-seedlist-discovery: SRV connection strings become seeds and options.
//!
//! Runs the case format of initial-dns-seedlist-discovery on the way that the client takes: connection string, look-up from
//! a DNS server on loopback, rules, TXT options, validation; then a client of the deployment that the case's folder asks
//! for, with TLS behind the zone's names (`deployment`). Every key of a case is checked,
//! an unknown one is a failure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mongolink::dns::LookupMode;
use mongolink::io::resolver::{Resolver, resolve_seeds};
use mongolink::{ClientOptions, ConnectionString, DnsConfig, Error, ServerAddress};
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

use crate::deployment::{Deployments, Outcome};
use crate::report::{Report, json_files};
use crate::zone_server::ZoneServer;

/// Limits each look-up: the server is near.
const DNS_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn run(folder: &Path, report: &mut Report) {
    let setting = Setting::set(folder, report.root());
    let mut suite = report.suite_in(folder);
    let mut folders = vec![folder.to_owned()];
    folders.extend(subfolders(folder));
    for sub in folders {
        let prefix = sub.strip_prefix(folder).map(|path| path.display().to_string()).unwrap_or_default();
        for (file, content) in json_files(&sub) {
            let name = if prefix.is_empty() { file } else { format!("{prefix}/{file}") };
            suite.case(name, || check(&content?, &prefix, setting.as_ref().map_err(String::clone)?));
        }
    }
}

/// The environment of the cases.
struct Setting {
    runtime: Runtime,
    zone: ZoneServer,
    deployments: Deployments,
}

impl Setting {
    fn set(folder: &Path, root: &Path) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|error| error.to_string())?;
        let of_data = root.join("initial-dns-seedlist-discovery/tests");
        let file = zone_file(folder).or_else(|| zone_file(&of_data)).ok_or("there is no spec-dns.zone above the folder")?;
        let zone = runtime.block_on(ZoneServer::start(&file))?;
        let deployments = runtime.block_on(Deployments::start(zone.hosts()))?;
        Ok(Self { runtime, zone, deployments })
    }
}

fn zone_file(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|path| path.join("spec-dns.zone")).find(|path| path.is_file())
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Checks a case of a folder, whose name says which deployment it is about.
fn check(test: &Value, folder: &str, setting: &Setting) -> Result<(), String> {
    let test = test.as_object().ok_or("the case is no object")?;
    let uri = test.get("uri").and_then(Value::as_str).ok_or("there is no text \"uri\"")?;
    check_form(test)?;
    let (runtime, dns) = (&setting.runtime, DnsConfig::Servers(vec![setting.zone.address()]));
    let resolver = Resolver::new(dns.clone(), DNS_TIMEOUT, None);
    let outcome = runtime.block_on(resolve(uri, &resolver));
    if test.get("error") == Some(&Value::Bool(true)) {
        return match outcome {
            Ok(options) => Err(format!("no error, but the seeds {:?}", options.hosts)),
            Err(error) if error.is_timeout() => Err(format!("the DNS server did not answer: {error}")),
            Err(_) => Ok(()),
        };
    }
    let options = outcome.map_err(|error| error.to_string())?;
    if options.hosts.is_empty() {
        return Err("there are no seeds".into());
    }
    let seeds: BTreeSet<ServerAddress> = options.hosts.iter().cloned().collect();
    let answer = runtime.block_on(answer(&options, &resolver))?;
    if let Some(count) = number(test, "numSeeds")?
        && (seeds.len() as u64 != count || options.hosts.len() != seeds.len() || !seeds.is_subset(&answer))
    {
        return Err(format!("{count} seeds of {answer:?} expected, {:?} found", options.hosts));
    }
    if let Some(expected) = test.get("seeds")
        && seeds != hosts(expected)?
    {
        return Err(format!("seeds {expected} expected, {seeds:?} found"));
    }
    check_options(test, "options", |name| option(&options, name))?;
    check_options(test, "parsed_options", |name| parsed_option(&options, name))?;
    let outcome = Outcome {
        seeds: test.get("seeds").map(hosts).transpose()?,
        seed_count: number(test, "numSeeds")?,
        hosts: test.get("hosts").map(hosts).transpose()?,
        host_count: number(test, "numHosts")?,
        pings: test.get("ping") != Some(&Value::Bool(false)),
    };
    runtime.block_on(setting.deployments.play(folder, uri, dns, &answer, &outcome))?;
    Ok(())
}

async fn resolve(uri: &str, resolver: &Resolver) -> Result<ClientOptions, Error> {
    let given = ConnectionString::parse(uri)?;
    resolve_seeds(given.options, resolver, 7).await.map(|found| found.options)
}

/// Returns all servers of the SRV answer, whose names have addresses.
async fn answer(options: &ClientOptions, resolver: &Resolver) -> Result<BTreeSet<ServerAddress>, String> {
    let host = options.srv.as_deref().ok_or("there is no SRV name")?;
    let (records, _) = resolver.srv(options.srv_service_name_or_default(), host).await.map_err(|error| error.to_string())?;
    let mut servers = BTreeSet::new();
    for record in records {
        let server = ServerAddress::new(&record.target, record.port).map_err(|error| error.to_string())?;
        if let Some(name) = server.name() {
            resolver.lookup(name, LookupMode::All).await.map_err(|error| format!("{name} has no address in the zone: {error}"))?;
        }
        servers.insert(server);
    }
    Ok(servers)
}

/// Checks that every key is known, and every value of the right kind.
fn check_form(test: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in test {
        let well_formed = match key.as_str() {
            "uri" | "comment" => value.is_string(),
            "seeds" | "hosts" => hosts(value).is_ok(),
            "numSeeds" | "numHosts" => value.is_u64(),
            "options" | "parsed_options" => value.is_object(),
            "error" | "ping" => value.is_boolean(),
            _ => return Err(format!("unknown key {key:?}")),
        };
        if !well_formed {
            return Err(format!("{key:?} can't be {value}"));
        }
    }
    Ok(())
}

fn hosts(value: &Value) -> Result<BTreeSet<ServerAddress>, String> {
    let texts = value.as_array().ok_or_else(|| format!("{value} is no list of hosts"))?;
    let host = |text: &Value| ServerAddress::parse(text.as_str().unwrap_or_default()).map_err(|error| error.to_string());
    texts.iter().map(host).collect()
}

fn number(test: &Map<String, Value>, key: &str) -> Result<Option<u64>, String> {
    test.get(key).map(|value| value.as_u64().ok_or_else(|| format!("{key:?} can't be {value}"))).transpose()
}

fn check_options(test: &Map<String, Value>, key: &str, found: impl Fn(&str) -> Option<Value>) -> Result<(), String> {
    let Some(expected) = test.get(key).and_then(Value::as_object) else { return Ok(()) };
    for (name, value) in expected {
        let own = found(name).ok_or_else(|| format!("unknown key {name:?} in {key:?}"))?;
        if own != *value {
            return Err(format!("{key} {name}: {value} expected, {own} found"));
        }
    }
    Ok(())
}

/// Returns an option as the client uses it; `None` for a name that is not known here.
fn option(options: &ClientOptions, name: &str) -> Option<Value> {
    Some(match name {
        "ssl" | "tls" => options.tls_or_default().into(),
        "replicaSet" => options.replica_set.clone().into(),
        "authSource" => options.auth_source.clone().into(),
        "loadBalanced" => options.load_balanced.into(),
        "directConnection" => options.direct_connection.into(),
        "srvServiceName" => options.srv_service_name.clone().into(),
        "srvMaxHosts" => options.srv_max_hosts.into(),
        _ => return None,
    })
}

/// Returns a part of the connection string; `None` for a name that is not known here.
fn parsed_option(options: &ClientOptions, name: &str) -> Option<Value> {
    Some(match name {
        "user" => options.username.clone().into(),
        "password" => options.password.as_ref().map(|password| password.reveal().to_owned()).into(),
        "db" | "defaultDatabase" => options.database.clone().into(),
        "auth_database" => options.auth_source.clone().or_else(|| options.database.clone()).into(),
        _ => return None,
    })
}
