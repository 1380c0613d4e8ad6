use super::table::{option_names, option_value};
use super::value::OptionValue;
use super::*;
use crate::host::{Host, ServerAddress};
use crate::options::ServerMonitoringMode;
use crate::options::{Mechanism, Secret};

fn parse(text: &str) -> ConnectionString {
    ConnectionString::parse(text).expect(text)
}

fn refusal(text: &str) -> Error {
    ConnectionString::parse(text).expect_err(text)
}

fn invalid(text: &str) -> Error {
    validate(&parse(text).options).expect_err(text)
}

/// All options except secrets, and the warnings.
fn facts(read: &ConnectionString) -> String {
    format!("{:?}", read.options)
}

#[test]
fn displayed_text_reads_as_the_same_options() {
    let texts = [
        "mongodb://localhost",
        "mongodb://ann%40x:p%40ss@a.example,[::1]:27018,%2Ftmp%2Fmongodb-27017.sock/db?replicaSet=rs%26x",
        "mongodb://[fe80::1%25lo0]:5,mongodb-27017.sock,B%C3%BCcher.example/",
        "mongodb+srv://ann@Cluster.Example.com/my%3Ddb?srvMaxHosts=3&srvServiceName=custom&tls=false",
        "mongodb://h/?readPreference=nearest&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=&maxStalenessSeconds=120",
        "mongodb://h/?w=majority&journal=true&wTimeoutMS=5&readConcernLevel=local&w=2&retryReads=false&retryWrites=true",
        "mongodb://k:s@h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:t%40k",
        "mongodb://u:p@h/?authMechanism=SOMETHING-NEW&authSource=s%20p",
        "mongodb://u@h/?authMechanism=GSSAPI&authMechanismProperties=SERVICE_NAME:o,CANONICALIZE_HOST_NAME:none&authSource=$external",
        "mongodb://h/?tls=true&tlsCAFile=/a%20b.pem&tlsCertificateKeyFile=c.pem&tlsCertificateKeyFilePassword=x&tlsInsecure=true",
        "mongodb://h/?compressors=zstd,zlib&zlibCompressionLevel=-1&appName=a%26b&serverMonitoringMode=poll&dnsTimeoutMS=7",
        "mongodb://h/?proxyHost=p&proxyPort=1&proxyUsername=u&proxyPassword=w&maxPoolSize=0&maxConnecting=3&heartbeatFrequencyMS=500",
    ];
    for text in texts {
        let first = parse(text);
        let second = parse(&first.to_string());
        assert_eq!(facts(&first), facts(&second), "{text} was displayed as {first}");
        assert_eq!(first.to_string(), second.to_string());
    }
}

#[test]
fn secrets_are_never_shown() {
    let text = "mongodb://ann:s3cret@h/?tls=true&tlsCertificateKeyFilePassword=s3cret&proxyHost=p&proxyUsername=u&proxyPassword=s3cret";
    let aws = "mongodb://key:s3cret@h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:s3cret";
    for text in [text, aws] {
        let read = parse(text);
        for shown in [read.to_string(), format!("{read:?}"), format!("{:?}", read.options)] {
            assert!(!shown.contains("s3cret"), "{shown}");
            assert!(shown.contains("***"), "{shown}");
        }
    }
    assert_eq!(parse(aws).options.aws_session_token, Some(Secret::new("s3cret")));
}

#[test]
fn unknown_options_are_named_by_their_number() {
    let read = parse("mongodb://h/?appName=x&colour=s3cret&maxPolSize=3&s3cret=x");
    let warnings: Vec<String> = read.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings[0].starts_with("option number 2: is not an option"), "{warnings:?}");
    assert!(warnings[1].starts_with("option number 3: ") && warnings[1].ends_with("; did you mean maxPoolSize?"), "{warnings:?}");
    assert!(!warnings.concat().contains("s3cret"), "{warnings:?}");
}

#[test]
fn values_that_hold_a_further_option_are_refused() {
    for text in [
        "mongodb://h/?authSource=admin?tls=true",
        "mongodb://h/?appName=x;maxPoolSize=5",
        "mongodb://h/?appName=x;nothing=5",
        "mongodb://h/?tlsCAFile=/x,tlsCertificateKeyFilePassword=s3cret",
        "mongodb://h/?appName=x%26proxyPassword%3Ds3cret",
        "mongodb://h/?authSource=AWS_SESSION_TOKEN:s3cret",
    ] {
        let error = refusal(text);
        assert!(error.to_string().contains("further option") && !error.to_string().contains("s3cret"), "{text}: {error}");
    }
    for text in ["mongodb://h/?appName=a=b", "mongodb://h/?appName=x;y%3Dz", "mongodb://h/?proxyHost=p&proxyUsername=u&proxyPassword=a;b=c"]
    {
        assert!(parse(text).warnings.is_empty(), "{text}");
    }
}

#[test]
fn characters_around_a_copied_string_are_named() {
    for (text, what) in [
        (" mongodb://h", "begins with a blank"),
        ("mongodb://h/ ", "ends with a blank"),
        ("mongodb://h/db\n", "ends with a line end"),
        ("mongodb://h/db\r\n", "ends with a line end"),
        ("\"mongodb://h/\"", "begins with a quotation mark"),
        ("mongodb://h/'", "ends with a quotation mark"),
        ("\u{201c}mongodb://h/\u{201d}", "begins with a quotation mark"),
        ("\u{feff}mongodb://h/", "begins with a byte-order mark"),
        ("mongodb://h/?appName=a\nb", "has a control character, at byte 23"),
        ("mongodb://h/a%0Ab", "'\\n' as character 2"),
        ("mongodb://h/%7F", "'\\u{7f}' as character 1"),
        ("mongodb://%2Ftmp%2F%00.sock", "control character"),
        ("MongoDB://h", "in lower case"),
    ] {
        assert!(refusal(text).to_string().contains(what), "{text:?}: {}", refusal(text));
    }
}

#[test]
fn displayed_text_of_a_refused_string_is_refused() {
    let is_refused = |text: &str| ConnectionString::parse(text).and_then(|read| validate(&read.options)).is_err();
    for text in [
        "mongodb://h/?tls=tru",
        "mongodb://h/?tls=tru&maxPoolSize=5",
        "mongodb+srv://a.b.c/?tls=",
        "mongodb://h/?tlsCAFile=",
        "mongodb://h/?w=-1",
        "mongodb://h/?wTimeoutMS=-5",
        "mongodb://u@h/",
        "mongodb://k:s@h/?authMechanism=MONGODB-AWS",
        "mongodb://h/?authMechanism=none",
        "mongodb://u%3As3cret@h/",
    ] {
        let read = parse(text);
        assert!(validate(&read.options).is_err(), "{text}");
        assert!(is_refused(&read.to_string()), "{text} was displayed as {read}");
        assert!(!format!("{read}{read:?}{:?}", read.options).contains("s3cret"), "{text} was displayed as {read}");
    }
    let subject = parse("mongodb://CN=a%3Ab@h/?tls=true&authMechanism=MONGODB-X509");
    assert_eq!(subject.to_string(), "mongodb://CN%3Da%3Ab@h:27017/?authMechanism=MONGODB-X509&tls=true");
}

#[test]
fn options_that_weaken_security_warn() {
    let warned = |text: &str| option_warnings(&parse(text).options).expect(text).iter().map(ToString::to_string).collect::<Vec<_>>();
    for option in ["tlsInsecure", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames"] {
        let warnings = warned(&format!("mongodb://localhost/?tls=true&{option}=true"));
        assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("option {option}: ")), "{warnings:?}");
        assert!(warned(&format!("mongodb://h/?tls=true&{option}=false")).is_empty());
    }
    for (text, expected) in [
        ("mongodb://u:p@h/", "option tls: a login without TLS at h:27017: "),
        ("mongodb://u:p@localhost,[::1],10.0.0.1,a,b,c/?authMechanism=SCRAM-SHA-1", "at 10.0.0.1:27017, a:27017, b:27017 and 1 more: "),
        (
            "mongodb://u:p@127.0.0.1.example/?authMechanism=PLAIN",
            "option authMechanism: PLAIN without TLS sends the password in plain text to ",
        ),
        ("mongodb+srv://u:p@a.b.c/?tls=false", "at the servers of a.b.c: "),
    ] {
        let warnings = warned(text);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{text}: {warnings:?}");
    }
    for text in [
        "mongodb://h/",
        "mongodb://u:p@h/?tls=true",
        "mongodb+srv://u:p@a.b.c",
        "mongodb://u:p@localhost,127.9.9.9,[::1],[::ffff:127.0.0.1],db.localhost,%2Ftmp%2Fm.sock/?authMechanism=PLAIN",
    ] {
        assert_eq!(warned(text), [""; 0], "{text}");
    }
    let mut options = parse("mongodb://u:p@h/").options;
    options.resolve.push((ServerAddress::parse("h").expect("host"), crate::host::Address::Ip(([127, 0, 0, 1], 1).into())));
    assert!(option_warnings(&options).expect("options").is_empty(), "the address is that of this machine");
    let client = crate::Client::new("mongodb://u:p@h/?tls=true&tlsInsecure=true").expect("client");
    assert_eq!(client.warnings().iter().map(|warning| warning.option.as_str()).collect::<Vec<_>>(), ["tlsInsecure"]);
}

#[test]
fn write_concern_that_contradicts_itself_is_refused_in_code() {
    let concern = crate::WriteConcern { w: Some(crate::W::Nodes(0)), journal: Some(true), w_timeout: None };
    let built = crate::Client::builder("mongodb://h").expect("string").options(|options| options.write_concern = Some(concern)).build();
    let error = built.expect_err("w=0 with journal=true");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::InvalidOption, Some(Stage::Uri)), "{error}");
}

#[test]
fn errors_in_user_info_say_to_percent_encode() {
    for text in ["mongodb://a@b:c@h", "mongodb://a:b:c@h", "mongodb://a:b%zz@h", "mongodb://a:b/c@h", "mongodb://a:b?c@h"] {
        let error = refusal(text);
        assert_eq!(error.kind(), ErrorKind::InvalidUri, "{text}");
        assert!(error.to_string().contains("percent-encode"), "{error}");
    }
}

#[test]
fn errors_quote_what_offends() {
    assert!(refusal("mongodb://h:99999").to_string().contains("\"99999\""));
    assert!(refusal("mongodb://h/?maxPoolSize").to_string().contains("number 1, maxPoolSize,"));
    assert!(refusal("mongodb://h/a%20b").to_string().contains("' ' as character 2"));
    assert!(refusal("mongodb://h/?appName=50%").to_string().contains("appName"));
    assert!(refusal("mongodb://a%2Fb").to_string().contains(".sock"));
    assert!(refusal("mongodb://::1").to_string().contains("brackets"));
    assert!(refusal("mongodb://a,,b").to_string().contains("empty host"));
    assert!(refusal("mongodb://h/?=5").to_string().contains("number 1"));
}

#[test]
fn zone_ids_are_decoded() {
    let read = parse("mongodb://[fe80::1%25lo0]:5");
    assert_eq!(read.options.hosts, [ServerAddress::parse("[fe80::1%lo0]:5").expect("host")]);
    assert_eq!(read.to_string(), "mongodb://[fe80::1%25lo0]:5/");
    assert!(refusal("mongodb://[fe80::1%lo0]").to_string().contains("%25"));
}

#[test]
fn only_a_path_is_a_unix_socket() {
    let read = parse("mongodb://mongodb.sock,mongodb.sock:5,%2Ftmp%2Fa.sock");
    let hosts: Vec<&Host> = read.options.hosts.iter().map(ServerAddress::host).collect();
    assert_eq!(hosts, [&Host::Name("mongodb.sock".into()), &Host::Name("mongodb.sock".into()), &Host::Unix("/tmp/a.sock".into())]);
    assert_eq!(read.options.hosts.iter().map(ServerAddress::port).collect::<Vec<_>>(), [27017, 5, 0]);
}

#[test]
fn sizes_have_limits() {
    let long = format!("mongodb://{}", "a".repeat(URI_SIZE_MAX));
    assert_eq!(refusal(&long).limit().map(|limit| limit.name), Some("URI_SIZE_MAX"));
    let most = vec!["h"; SEEDS_MAX].join(",");
    assert_eq!(parse(&format!("mongodb://{most}")).options.hosts.len(), SEEDS_MAX);
    assert_eq!(refusal(&format!("mongodb://{most},h")).limit().map(|limit| limit.name), Some("SEEDS_MAX"));
    let warned = parse(&format!("mongodb://h/?{}=1", "k".repeat(5000)));
    assert!(warned.warnings[0].option.len() < 100);
}

#[test]
fn numbers_keep_away_from_the_end_of_the_clock() {
    assert_eq!(parse("mongodb://h/?connectTimeoutMS=2147483647").warnings.len(), 0);
    assert_eq!(parse("mongodb://h/?connectTimeoutMS=2147483648").options.connect_timeout, None);
    assert_eq!(parse("mongodb://h/?connectTimeoutMS=+5").warnings.len(), 1);
    let long = Some(std::time::Duration::MAX);
    for (options, name) in [
        (ClientOptions { timeout: long, ..parse("mongodb://h").options }, "timeoutMS"),
        (ClientOptions { drain_limit: long, ..parse("mongodb://h").options }, "drain_limit"),
    ] {
        assert!(validate(&options).expect_err("too long").to_string().contains(name));
    }
}

#[test]
fn first_of_repeated_keys_holds() {
    let read = parse("mongodb://h/?maxPoolSize=5&MAXPOOLSIZE=6&maxPoolSize=7");
    assert_eq!(read.options.max_pool_size, Some(5));
    let odd: Vec<&str> = read.warnings.iter().map(|warning| warning.option.as_str()).collect();
    assert_eq!(odd, ["MAXPOOLSIZE", "maxPoolSize"]);
}

#[test]
fn deprecated_names_warn_and_have_lower_precedence() {
    let alone = parse("mongodb://h/?wtimeout=5&j=true");
    assert_eq!(option_value(&alone.options, "wtimeoutms"), Some(OptionValue::Int(5)));
    assert_eq!(option_value(&alone.options, "journal"), Some(OptionValue::Bool(true)));
    assert_eq!(alone.warnings.len(), 2);
    let both = parse("mongodb://h/?wtimeout=5&wTimeoutMS=10");
    assert_eq!(option_value(&both.options, "wTimeoutMS"), Some(OptionValue::Int(10)));
    assert_eq!(both.warnings.len(), 1);
    assert!(parse("mongodb://h/?ssl=true").warnings.is_empty());
}

#[test]
fn all_values_of_tls_must_agree() {
    assert_eq!(parse("mongodb://h/?tls=true&ssl=true&tls=true").options.tls, Some(true));
    assert!(refusal("mongodb://h/?tls=true&ssl=true&tls=false").to_string().contains("tls"));
}

#[test]
fn values_that_cannot_be_ignored_make_no_client() {
    for text in ["mongodb://h/?tls=yes", "mongodb://h/?tlsCAFile=", "mongodb://h/?w=-1", "mongodb://h/?wTimeoutMS=-1"] {
        assert_eq!(parse(text).warnings.len(), 1, "{text}");
        assert_eq!(invalid(text).kind(), ErrorKind::InvalidOption, "{text}");
    }
    assert!(validate(&parse("mongodb://h/?maxPoolSize=-1").options).is_ok());
}

#[test]
fn keys_of_aws_are_data_but_make_no_client() {
    for text in [
        "mongodb://h/?authMechanism=MONGODB-AWS",
        "mongodb://key@h/?authMechanism=MONGODB-AWS",
        "mongodb://key:secret@h/?authMechanism=MONGODB-AWS",
    ] {
        let error = crate::Client::new(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}: {error}");
        assert!(error.message().ends_with("is not supported"), "{text}: {error}");
    }
    for text in [
        "mongodb://key:secret@h/?authMechanism=MONGODB-AWS&authSource=admin",
        "mongodb://h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:secret",
        "mongodb://h/?authMechanism=MONGODB-OIDC",
        "mongodb://h/?authMechanism=GSSAPI",
    ] {
        assert!(refusal(text).message().contains("; mongolink does not support "), "{text}: {}", refusal(text));
    }
    let text = "mongodb://key:secret@h/?authMechanism=MONGODB-AWS";
    let credential = parse(text).options.credential().expect("credential").expect("some");
    assert_eq!((credential.username.as_deref(), credential.source.as_str()), (Some("key"), "$external"));
    assert_eq!(invalid(text).kind(), ErrorKind::Unsupported);
}

#[test]
fn missing_passwords_make_no_client() {
    for mechanism in ["", "?authMechanism=SCRAM-SHA-256", "?authMechanism=PLAIN"] {
        let text = format!("mongodb://ann@h/{mechanism}");
        assert!(invalid(&text).to_string().contains("password"), "{text}");
        let mut options = parse(&text).options;
        options.password = Some(Secret::new("later"));
        assert!(validate(&options).is_ok(), "{text}");
    }
}

#[test]
fn contradictions_name_both_options() {
    let texts = [
        ("mongodb://h/?minPoolSize=5&maxPoolSize=4", ["minPoolSize", "maxPoolSize"]),
        ("mongodb://h/?minPoolSize=101", ["minPoolSize", "maxPoolSize"]),
        ("mongodb://h/?loadBalanced=true&replicaSet=r", ["loadBalanced", "replicaSet"]),
        ("mongodb+srv://h.x.y/?directConnection=true", ["directConnection", "mongodb+srv"]),
        ("mongodb://h/?srvServiceName=x", ["srvServiceName", "mongodb+srv"]),
        ("mongodb://h/?w=0&journal=true", ["w=0", "journal=true"]),
        ("mongodb://h/?maxStalenessSeconds=120", ["primary", "maxStalenessSeconds"]),
        ("mongodb://h/?readPreferenceTags=a:b", ["primary", "tags"]),
        ("mongodb://u:p@h/?authMechanismProperties=SERVICE_NAME:x", ["authMechanism", "SERVICE_NAME"]),
    ];
    for (text, names) in texts {
        let shown = refusal(text).to_string();
        assert!(names.iter().all(|name| shown.contains(name)), "{text}: {shown}");
        assert!(shown.starts_with("uri: "), "{shown}");
    }
}

#[test]
fn srv_takes_one_name_without_port() {
    assert_eq!(parse("mongodb+srv://B%C3%BCcher.Example.").options.srv.as_deref(), Some("xn--bcher-kva.example"));
    for text in ["mongodb+srv://a.b.c,d.e.f", "mongodb+srv://a.b.c:27017", "mongodb+srv://[::1]", "mongodb+srv://"] {
        assert_eq!(refusal(text).stage(), Some(Stage::Uri), "{text}");
    }
    for address in
        ["127.0.0.1", "127.0.0.1.", "127.0.0.1./", "127.1", "2130706433", "127.0.0.1..", "%3A%3A1", "1.2.3.4.5", "\u{ff11}27.0.0.1"]
    {
        refusal(&format!("mongodb+srv://{address}"));
    }
}

#[test]
fn names_of_the_table_are_unique_and_lead_to_their_rows() {
    let mut names: Vec<String> = table::TABLE
        .iter()
        .flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().map(|alias| alias.name)))
        .map(str::to_ascii_lowercase)
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(option_names().all(|name| option_value(&ClientOptions::default(), name).is_none()));
    assert!(option_names().any(|name| name == "dnsTimeoutMS"));
}

#[test]
fn enumerations_are_read() {
    assert_eq!(parse("mongodb://h/?serverMonitoringMode=stream").options.server_monitoring_mode, Some(ServerMonitoringMode::Stream));
    assert_eq!(parse("mongodb://h/?serverMonitoringMode=fast").warnings.len(), 1);
    assert_eq!(parse("mongodb://h/?authMechanism=MONGODB-X509").options.auth_mechanism, Some(Mechanism::X509));
    let some = parse("mongodb://h/?compressors=lz4,zlib");
    assert_eq!((some.options.compressors, some.warnings.len()), (Some(vec!["zlib".to_owned()]), 1));
}

fn merged(uri: &str, records: &[&[&[u8]]]) -> Result<ConnectionString, Error> {
    let mut read = parse(uri);
    let records: Vec<Vec<Vec<u8>>> = records.iter().map(|record| record.iter().map(|part| part.to_vec()).collect()).collect();
    apply_txt(&mut read.options, &mut read.warnings, &records).map(|()| read)
}

#[test]
fn strings_of_a_txt_record_are_joined() {
    let read = merged("mongodb+srv://a.b.c", &[&[b"replicaSet=re", b"pl0&authSource=", b"this%20DB"]]).expect("record");
    assert_eq!(read.options.replica_set.as_deref(), Some("repl0"));
    assert_eq!(read.options.auth_source.as_deref(), Some("this DB"));
    assert!(merged("mongodb+srv://a.b.c", &[]).is_ok());
}

#[test]
fn given_values_win_over_a_txt_record() {
    let read = merged("mongodb+srv://a.b.c/?authSource=mine&loadBalanced=false", &[&[b"authSource=theirs&loadBalanced=true&replicaSet=r"]])
        .expect("record");
    assert_eq!(read.options.auth_source.as_deref(), Some("mine"));
    assert_eq!(read.options.load_balanced, Some(false));
    assert_eq!(read.options.replica_set.as_deref(), Some("r"));
}

#[test]
fn bad_txt_records_are_refused_at_stage_srv() {
    let records: [&[&[&[u8]]]; 6] = [
        &[&[b"authSource=a"], &[b"replicaSet=b"]],
        &[&[b"authSource=a&ssl=false"]],
        &[&[b"authSource"]],
        &[&[b"authSource="]],
        &[&[b"replicaSet=%zz"]],
        &[&[b"replicaSet=\xff"]],
    ];
    for record in records {
        let error = merged("mongodb+srv://a.b.c", record).expect_err("record");
        assert_eq!((error.kind(), error.stage()), (ErrorKind::DnsRule, Some(Stage::Srv)), "{error}");
    }
    let odd = merged("mongodb+srv://a.b.c", &[&[b"loadBalanced=maybe"]]).expect("record");
    assert_eq!((odd.options.load_balanced, odd.warnings.len()), (None, 1));
}

#[test]
fn txt_records_can_contradict_the_connection_string() {
    let read = merged("mongodb+srv://a.b.c/?srvMaxHosts=1", &[&[b"loadBalanced=true"]]).expect("record");
    assert!(validate(&read.options).expect_err("both").to_string().contains("srvMaxHosts"));
    let contradictions: [(&str, &[u8], &str); 2] = [
        ("mongodb+srv://a.b.c/?replicaSet=r", b"loadBalanced=true", "replicaSet"),
        ("mongodb+srv://a.b.c/?loadBalanced=true", b"replicaSet=r", "replicaSet"),
    ];
    for (text, record, name) in contradictions {
        let read = merged(text, &[&[record]]);
        let error = read.and_then(|read| validate(&read.options)).expect_err(text);
        assert!(error.to_string().contains(name), "{text}: {error}");
    }
}

#[test]
fn load_balancer_is_one_host_also_when_records_say_so() {
    let mut read = merged("mongodb+srv://a.b.c", &[&[b"loadBalanced=true"]]).expect("record");
    read.options.hosts = ["x.b.c", "y.b.c"].iter().map(|host| ServerAddress::parse(host).expect("host")).collect();
    assert!(validate(&read.options).expect_err("two").to_string().contains("loadBalanced=true with 2 hosts"));
    read.options.hosts.truncate(1);
    assert!(validate(&read.options).is_ok() && option_warnings(&read.options).is_ok());
}

#[test]
fn unsupported_security_options_are_refused() {
    let texts = [
        ("mongodb://u@h/?authMechanism=GSSAPI", "GSSAPI"),
        ("mongodb://h/?authMechanism=MONGODB-AWS", "MONGODB-AWS"),
        ("mongodb://u:p@h/?authMechanism=SCRAM-SHA-512", "SCRAM-SHA-512"),
        ("mongodb://h/?proxyHost=p", "proxyHost"),
    ];
    for (text, name) in texts {
        let error = option_warnings(&parse(text).options).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for text in ["mongodb://h/?tlsCAFile=a", "mongodb://h/?authMechanism=MONGODB-X509"] {
        assert_eq!(option_warnings(&parse(text).options).expect_err(text).kind(), ErrorKind::InvalidOption);
    }
}

#[test]
fn options_without_effect_warn() {
    let warned =
        |text: &str| option_warnings(&parse(text).options).expect(text).into_iter().map(|warning| warning.option).collect::<Vec<_>>();
    assert_eq!(warned("mongodb://u:p@h/?tls=true&tlsCAFile=a&maxPoolSize=3&retryWrites=false"), [""; 0]);
    assert_eq!(warned("mongodb://h/?compressors=zlib&retryReads=true&w=1"), ["compressors", "retryReads", "w"]);
    assert_eq!(warned("mongodb://h/?tls=true&tlsDisableOCSPEndpointCheck=true"), ["tlsDisableOCSPEndpointCheck"]);
    assert_eq!(warned("mongodb://h/?tls=false&tlsCAFile=a&tlsInsecure=true"), ["tlsCAFile", "tlsInsecure"]);
}

#[cfg(not(feature = "encrypted-keys"))]
#[test]
fn encrypted_keys_need_their_feature() {
    let error = option_warnings(&parse("mongodb://h/?tls=true&tlsCertificateKeyFilePassword=x").options).expect_err("feature");
    assert!(error.to_string().contains("encrypted-keys"));
}
