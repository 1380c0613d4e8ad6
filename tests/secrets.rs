//! No output shows a part of a password, for any corrupted connection string.
//!
//! The strings are made by rule, without chance: passwords with every delimiter in every form, separators that are encoded,
//! doubled or left out, options whose separators are wrong, and every change of one character in some complete strings.
//! Each password is made of [`MARK`] alone, which no output may have.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mongolink::uri::{ConnectionString, option_warnings, validate};
use mongolink::{Client, ClientBuilder, Error, Secret, bson::doc};

/// What every part of a password is made of.
const MARK: &str = "qzxkj";

/// Passwords, spoiled by what delimits a connection string; `~` stands for [`MARK`].
const PASSWORDS: [&str; 42] = [
    "~",
    "~/~",
    "~?~",
    "~#~",
    "~@~",
    "~:~",
    "~%~",
    "~%4",
    "~%40~",
    "~,~",
    "~;~",
    "~&~",
    "~=~",
    "~＠~",
    "~：~",
    "/~",
    "?~",
    "@~",
    ":~",
    "&~",
    ",~",
    "[~]",
    "[~",
    "~]",
    "~ ~",
    "~\"~",
    "~\n~",
    "~%00",
    "~%ff~",
    "é~",
    "~.~",
    "~..~",
    "%~",
    "~%",
    "x/~?~",
    "x?a=~",
    "x?maxPoolSize=~",
    "x?tls=~",
    "x/~?tls=~&~",
    "x,~",
    "~%2540~",
    "%7E~/..",
];

fn password(shape: &str) -> String {
    shape.replace('~', MARK)
}

/// Spoils what stands around a password: every combination of separators, and one thing more at a time.
fn with_passwords(strings: &mut BTreeSet<String>) {
    let colons = [":", "%3A", "：", "%253A", "%EF%BC%9A"];
    let ats = ["@", "%40", "＠", "%EF%BC%A0", "﹫", "%2540", ""];
    let plain = [("mongodb://", "u"), ("mongodb+srv://", "u")];
    let odd = [
        ("mongodb:/", "u"),
        ("mongodb//", "u"),
        ("MongoDB://", "u"),
        ("mongo://", "u"),
        ("http://", "u"),
        ("", "u"),
        ("mongodb:///", "u"),
        (" mongodb://", "u"),
        ("\"mongodb://", "u"),
        ("mongodb://", ""),
        ("mongodb://", "u@d"),
        ("mongodb://", "u%40d"),
        ("mongodb://", "u s"),
        ("mongodb://", "u%2"),
        ("mongodb://", "u,v"),
        ("mongodb://", "[u"),
        ("mongodb://", "u/v"),
        ("mongodb://", "u%2Fv"),
    ];
    let hosts = ["h.b.c", "h:1", "", "h:x", "a,b:99999", "[::1]:1", "a..b", "127.1", "%2Ftmp%2Fm.sock", "xn--a"];
    let tails =
        ["", "/", "/db", "?tls=true", "/?maxPoolSize=x", "/?tls=tru&w=-1", "/a b", "/?x", "/?authMechanism=PLAIN", "/?replicaSet=r@s"];
    for shape in PASSWORDS {
        let password = password(shape);
        // Hosts are shown: they stand behind an '@' without a ':' before it, or behind the only '@'.
        for colon in colons.iter().filter(|colon| !shape.starts_with('@') || **colon == ":") {
            for at in ats.iter().filter(|at| !shape.contains('@') || !at.is_empty()) {
                let mut add = |(scheme, user): (&str, &str), host: &str, tail: &str| {
                    strings.insert(format!("{scheme}{user}{colon}{password}{at}{host}{tail}"));
                };
                for start in plain {
                    hosts.iter().for_each(|host| tails.iter().take(2).for_each(|tail| add(start, host, tail)));
                }
                odd.iter().for_each(|start| add(*start, "h.b.c", "/db"));
                tails.iter().for_each(|tail| add(plain[0], "h", tail));
            }
        }
    }
}

/// Spoils the separators around options that are secrets, and their names.
fn with_options(strings: &mut BTreeSet<String>) {
    let first = [
        "",
        "maxPoolSize=5",
        "appName=x",
        "authSource=admin",
        "tls=true",
        "tlsCAFile=/x",
        "readPreferenceTags=a:b",
        "compressors=zlib",
        "w=1",
        "authMechanism=PLAIN",
        "journal=true",
        "connectTimeoutMS=1",
        "serverMonitoringMode=poll",
        "replicaSet=r",
        "readConcernLevel=local",
        "nothing=1",
    ];
    let names = ["tlsCertificateKeyFilePassword", "proxyPassword", "authMechanismProperties=AWS_SESSION_TOKEN"];
    for first in first {
        for shape in PASSWORDS.iter().filter(|shape| !shape.contains("x?maxPoolSize")) {
            let password = password(shape);
            for name in names {
                let equals: &[&str] =
                    if name.contains("TOKEN") { &[":", ":,", ",", "=", "%3A"] } else { &["=", "", ":", "==", " = ", "%3D", "=&"] };
                for equals in equals {
                    for between in ["&", ";", "?", ","] {
                        strings.insert(format!("mongodb://h/?{first}{between}{name}{equals}{password}"));
                    }
                }
            }
            for name in
                ["tlsCertificateKeyFilePasswort", "password", "pwd", "authMechanismProperties=AWS_SESION_TOKEN:a,X", "x%zz", "%FF", " "]
            {
                strings.insert(format!("mongodb+srv://u:p@h.b.c/db?{first}&{name}={password}"));
            }
            strings.insert(format!("mongodb://u:p@h/?{first}&{password}"));
            strings.insert(format!("mongodb://u:p@h/?{first}&{password}=x"));
        }
    }
}

/// Changes every character of some complete strings, but those of the mark.
fn with_changes(strings: &mut BTreeSet<String>) {
    let complete = [
        "mongodb://ann:~@db.example:27018/app?replicaSet=rs0&tls=true",
        "mongodb://ann:~%40~@[fe80::1%25lo0]:5,db/app",
        "mongodb+srv://ann:~@cluster.a.example/?authSource=admin&maxPoolSize=7",
        "mongodb://ann:~@h/?tls=true&tlsCertificateKeyFile=k&tlsCertificateKeyFilePassword=~&w=1",
        "mongodb://h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:~",
        "mongodb://h/?proxyHost=p&proxyPort=1&proxyUsername=u&proxyPassword=~&compressors=zlib",
    ];
    let specials = [
        ":",
        "@",
        "/",
        "?",
        "&",
        "=",
        "#",
        "%",
        ",",
        ";",
        "[",
        "]",
        " ",
        "\"",
        "\n",
        "＠",
        "：",
        "%40",
        "%3A",
        "%2F",
        "\u{0}",
        "mongodb://",
    ];
    for text in complete {
        for (at, character) in text.char_indices().filter(|(_, character)| *character != '~') {
            let (before, rest) = text.split_at(at);
            let after = &rest[character.len_utf8()..];
            strings.insert(password(&format!("{before}{after}")));
            strings.insert(password(before));
            strings.insert(password(&format!("{before}%{:02x}{after}", u32::from(character))));
            for special in specials {
                strings.insert(password(&format!("{before}{special}{after}")));
                strings.insert(password(&format!("{before}{special}{rest}")));
            }
        }
    }
}

/// Tells whether the mark stands where a value of a connection string stands that is no secret: it is then rightly shown.
fn is_no_secret(text: &str) -> bool {
    // "mongodb://u" followed by a port and a mark behind a '/' can't be told from a database, nor one behind a '?' from a value.
    let Ok(read) = ConnectionString::parse(text) else { return false };
    let options = &read.options;
    let in_database = options.database.as_deref().is_some_and(|database| database.contains(MARK));
    let in_user =
        options.username.as_deref().is_some_and(|user| user.contains(MARK) && (options.password.is_some() || !user.contains([':', '：'])));
    let in_host =
        options.hosts.iter().any(|host| host.canonical().contains(MARK)) || options.srv.as_ref().is_some_and(|name| name.contains(MARK));
    in_database || in_user || in_host
}

fn error_text(error: &Error, out: &mut String) {
    write!(out, "{error}\n{error:?}\n{}\n", error.message()).expect("a string");
    let mut source = error.source();
    while let Some(cause) = source {
        write!(out, "{cause}\n{cause:?}\n").expect("a string");
        source = cause.source();
    }
}

/// Everything that the library says about a connection string, without a network.
fn said(text: &str) -> String {
    let mut out = String::new();
    match ConnectionString::parse(text) {
        Err(error) => error_text(&error, &mut out),
        Ok(read) => {
            write!(out, "{read}\n{read:?}\n{:?}\n{:?}\n", read.options, read.warnings).expect("a string");
            read.warnings.iter().for_each(|warning| writeln!(out, "{warning}").expect("a string"));
            let judged = validate(&read.options).and_then(|()| option_warnings(&read.options));
            match judged {
                Err(error) => {
                    error_text(&error, &mut out);
                    let shown = ConnectionString::parse(&read.to_string()).and_then(|shown| {
                        validate(&shown.options)?;
                        option_warnings(&shown.options)
                    });
                    assert!(shown.is_err(), "{text:?} is refused ({error}), and accepted as it is displayed: {read}");
                }
                Ok(_) => {
                    let client = Client::new(text).expect(text);
                    write!(out, "{client:?} {:?}", client.warnings()).expect("a string");
                    client.warnings().iter().for_each(|warning| writeln!(out, "{warning}").expect("a string"));
                }
            }
        }
    }
    out
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn strings() -> BTreeSet<String> {
    let mut strings = BTreeSet::new();
    with_passwords(&mut strings);
    with_options(&mut strings);
    with_changes(&mut strings);
    strings
}

/// Ends with the first strings that are shown, so that a fault does not fill the screen.
fn check(shown: Vec<(String, String)>) {
    let count = shown.len();
    for (text, output) in shown.iter().step_by(count / 20 + 1) {
        let line = output.lines().find(|line| line.to_lowercase().contains(MARK)).unwrap_or_default();
        eprintln!("{text:?}: {line}");
    }
    assert_eq!(count, 0, "outputs that show a piece of a password");
}

/// Returns the strings whose secrets are shown, with the output, and counts the strings that have a secret.
fn search(strings: &[String]) -> (Vec<(String, String)>, usize) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).finish();
    let (mut shown, mut secret) = (Vec::new(), 0);
    tracing::subscriber::with_default(subscriber, || {
        for text in strings {
            let output = said(text) + &log.take();
            let is_shown = output.to_lowercase().contains(MARK);
            if !is_shown {
                secret += 1;
            } else if !is_no_secret(text) {
                shown.push((text.clone(), output));
            }
        }
    });
    (shown, secret)
}

#[test]
fn no_malformed_string_shows_its_password() {
    let strings = strings();
    assert!(strings.len() > 100_000, "{} strings", strings.len());
    let strings: Vec<String> = strings.into_iter().collect();
    let halves = strings.split_at(strings.len() / 2);
    let (mut shown, secret) = std::thread::scope(|scope| {
        let other = scope.spawn(|| search(halves.1));
        let (mut shown, secret) = search(halves.0);
        let (others, more) = other.join().expect("the other half");
        shown.extend(others);
        (shown, secret + more)
    });
    shown.sort();
    check(shown);
    assert!(secret > 90_000, "only {secret} strings have a secret");
}

#[test]
fn builders_show_no_secret() {
    let text = format!("mongodb://ann:{MARK}@db.example/?tlsCertificateKeyFilePassword={MARK}");
    let given = ConnectionString::parse(&text).expect("readable");
    let builder = ClientBuilder::from(given).password(Secret::new(MARK));
    let mut out = format!("{builder:?}");
    assert!(out.contains("ann") && out.contains("db.example"), "{out}");
    let database = Client::new("mongodb://db.example").expect("a client").database("admin");
    for command in [doc! { "createUser": "ann", "pwd": MARK }, doc! { "find": "things", "filter": { "token": MARK } }] {
        let raw = database.run_command(command.clone()).raw();
        let cursor = database.run_cursor_command(command.clone());
        write!(out, "{raw:?} {cursor:?} {:?}", database.run_command(command).into_future()).expect("a string");
    }
    assert!(out.contains("createUser") && out.contains("find"), "{out}");
    #[cfg(feature = "sandbox")]
    write!(out, "{:?}", mongolink::Sandbox::builder().user("ann", MARK)).expect("a string");
    assert!(!out.contains(MARK), "{out}");
}

#[cfg(feature = "cli")]
mod program {
    use std::io::Write as _;
    use std::process::{Command, Output, Stdio};

    use super::{MARK, check, is_no_secret, strings};

    /// How many of the strings the program is given, each several times.
    const SAMPLE: usize = 40;

    fn mongolink(arguments: &[&str], uri: &str, is_input: bool) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mongolink"));
        command.args(arguments).env_remove("MONGOLINK_URI").env_remove("RUST_LOG");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if !is_input && !arguments.contains(&uri) {
            command.env("MONGOLINK_URI", uri);
        }
        let mut child = command.spawn().expect("the program starts");
        let mut input = child.stdin.take().expect("piped");
        if is_input {
            // The program may end without reading all of it.
            drop(input.write_all(uri.as_bytes()));
        }
        drop(input);
        child.wait_with_output().expect("it ends")
    }

    #[test]
    fn program_shows_no_password() {
        let strings: Vec<String> = strings().into_iter().filter(|text| !text.contains('\0') && !is_no_secret(text)).collect();
        let mut shown = Vec::new();
        for text in strings.iter().step_by(strings.len() / SAMPLE) {
            let as_file = format!("@{text}");
            for (arguments, is_input) in [
                (&["doctor", "--timeout", "0.2", "-vv"][..], false),
                (&["doctor", "--timeout", "0.2", "--json", "--", text], false),
                (&["doctor", "--", text, text], false),
                (&["run", "--timeout", "0.2", "-vv", "test", "{\"ping\": 1}"], false),
                (&["run", "--timeout", "0.2", "--", text, "test", text], false),
                (&["run", "--timeout", "0.2", "--", "mongodb://127.0.0.1:1/", text, "{\"ping\": 1}"], false),
                (&["doctor", "--timeout", "0.2", "--", &as_file], false),
                (&["watch", "-"], true),
            ] {
                // What can be read is watched for ever.
                if arguments[0] == "watch" && mongolink::Client::new(text).is_ok() {
                    continue;
                }
                let output = mongolink(arguments, text, is_input);
                let output = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(!output.contains("panicked"), "{arguments:?}: {output}");
                if output.to_lowercase().contains(MARK) {
                    shown.push((format!("{arguments:?} {text}"), output));
                }
            }
        }
        check(shown);
    }
}
