use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::scram::keys::{Derivation, KEYS_MAX, ScramHash, ScramKeyCache};
use super::scram::{ClientFinal, ClientFirst, ITERATIONS_MAX, MESSAGE_SIZE_MAX, ServerFirst};
use super::{Secret, plain, x509};
use crate::error::{Error, ErrorKind, Stage};

const NONCE_256: &str = "rOprNGfwEbeRWgbNEkqO";
const FIRST_256: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const PROOF_256: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const LAST_256: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

const NONCE_1: &str = "fyko+d2lbbFgONRv9qkxdawL";
const FIRST_1: &str = "r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000";
const PROOF_1: &str = "c=biws,r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,p=MC2T8BvbmWRckDw8oWl5IVghwCY=";
const LAST_1: &str = "v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0=";

fn opened(hash: ScramHash, nonce: &str, password: &str) -> ClientFirst {
    ClientFirst::with_nonce(hash, "user", &Secret::new(password), nonce.to_owned())
}

fn answered(first: &str) -> Result<(Derivation, ServerFirst), Error> {
    opened(ScramHash::Sha256, NONCE_256, "pencil").handle_server_first(first.as_bytes())
}

fn proved() -> ClientFinal {
    let (derivation, first) = answered(FIRST_256).expect("server first");
    first.handle_keys(derivation.run()).expect("keys").1
}

fn refusal(first: &str) -> Error {
    let error = answered(first).map(drop).expect_err(first);
    assert_eq!(error.stage(), Some(Stage::Auth));
    error
}

/// A derivation of a password and salt of one's own.
fn derivation(hash: ScramHash, user: &str, password: &str, salt: &[u8], iterations: u32) -> Derivation {
    let client = ClientFirst::with_nonce(hash, user, &Secret::new(password), "n".to_owned());
    let first = format!("r=nx,s={},i={iterations}", BASE64_STANDARD.encode(salt));
    client.handle_server_first(first.as_bytes()).expect("server first").0
}

#[test]
fn sha_256_matches_the_test_vector_of_rfc_7677() {
    let client = opened(ScramHash::Sha256, NONCE_256, "pencil");
    assert_eq!(client.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (derivation, first) = client.handle_server_first(FIRST_256.as_bytes()).expect("server first");
    let (message, last) = first.handle_keys(derivation.run()).expect("keys");
    assert_eq!(message.as_str(), PROOF_256);
    last.handle_server_final(LAST_256.as_bytes()).expect("server final");
}

#[test]
fn sha_1_matches_the_test_vector_of_the_specification() {
    let client = opened(ScramHash::Sha1, NONCE_1, "pencil");
    assert_eq!(client.message(), "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
    let (derivation, first) = client.handle_server_first(FIRST_1.as_bytes()).expect("server first");
    let (message, last) = first.handle_keys(derivation.run()).expect("keys");
    assert_eq!(message.as_str(), PROOF_1);
    last.handle_server_final(LAST_1.as_bytes()).expect("server final");
}

#[test]
fn entropy_becomes_a_nonce_without_commas() {
    let client = ClientFirst::new(ScramHash::Sha256, "user", &Secret::new("pencil"), [0xff; 24]);
    assert_eq!(client.message(), format!("n,,n=user,r={}", "/".repeat(32)));
}

#[test]
fn user_name_is_escaped_and_not_prepared() {
    let client = ClientFirst::with_nonce(ScramHash::Sha256, "a=b,c\u{2168}\u{ad}", &Secret::new("p"), "n".to_owned());
    assert_eq!(client.message(), "n,,n=a=3Db=2Cc\u{2168}\u{ad},r=n");
}

#[test]
fn wrong_signature_is_refused() {
    let tampered = BASE64_STANDARD.encode([0_u8; 32]);
    for last in [format!("v={tampered}"), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl9".to_owned(), "v=".to_owned()] {
        let error = proved().handle_server_final(last.as_bytes()).expect_err("refusal");
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert_eq!(error.to_string(), "auth: the server's signature is wrong: it does not know the password");
    }
}

#[test]
fn servers_error_is_named_if_it_is_known() {
    let error = proved().handle_server_final(b"e=invalid-proof").expect_err("refusal");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Auth, "the server ended the exchange: invalid-proof"));
    let error = proved().handle_server_final(b"e=pencil").expect_err("refusal");
    assert_eq!(error.message(), "the server ended the exchange: an error of its own");
}

#[test]
fn nonce_that_does_not_continue_ours_is_refused() {
    for nonce in ["rOprNGfwEbeRWgbNEkqO", "rOprNGfwEbeRWgbNEkqP%hvY", "", "x"] {
        let error = refusal(&format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        assert_eq!((error.kind(), error.message()), (ErrorKind::Auth, "the server's nonce does not continue the client's"), "{nonce}");
    }
}

#[test]
fn iterations_have_a_floor_and_a_ceiling() {
    let asked = |count: &str| format!("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i={count}");
    for (count, limit) in [("0", 4096), ("4095", 4096), ("1000001", 1_000_000), ("99999999999999999999999", 1_000_000)] {
        let error = refusal(&asked(count));
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.to_string().ends_with(&format!("of {limit})")), "{error}");
    }
    for count in ["", "+4096", "-1", "4096.0", "0x2000"] {
        assert_eq!(refusal(&asked(count)).kind(), ErrorKind::Protocol, "{count}");
    }
    assert!(answered(&asked("4096")).is_ok());
    assert!(answered(&asked(&ITERATIONS_MAX.to_string())).is_ok());
}

#[test]
fn malformed_messages_have_names() {
    for (first, text) in [
        ("", "has no nonce"),
        ("s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "has no nonce"),
        ("r=rOprNGfwEbeRWgbNEkqOx", "has no salt"),
        ("r=rOprNGfwEbeRWgbNEkqOx,i=4096", "has no salt"),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=???,i=4096", "salt is not base64"),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", "salt is empty"),
        ("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==", "has no iteration count"),
    ] {
        let error = refusal(first);
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(refusal("m=x,r=rOprNGfwEbeRWgbNEkqOx").kind(), ErrorKind::Unsupported);
    assert!(refusal(&"x".repeat(MESSAGE_SIZE_MAX + 1)).to_string().contains("limit MESSAGE_SIZE_MAX"));
    let error = opened(ScramHash::Sha256, NONCE_256, "pencil").handle_server_first(&[0xff, 0xfe]).map(drop).expect_err("refusal");
    assert!(error.to_string().contains("not UTF-8"), "{error}");
    for last in ["", "x", "v", "v=?", "p=abc"] {
        assert_eq!(proved().handle_server_final(last.as_bytes()).expect_err(last).kind(), ErrorKind::Protocol);
    }
}

#[test]
fn extensions_behind_the_iterations_are_part_of_what_is_signed() {
    let plain = answered(FIRST_256).expect("server first");
    let extended = answered(&format!("{FIRST_256},x=y")).expect("server first");
    let message = |(derivation, first): (Derivation, ServerFirst)| first.handle_keys(derivation.run()).expect("keys").0;
    assert_ne!(message(plain), message(extended));
}

#[test]
fn password_is_prepared_for_sha_256_only() {
    let same = |hash, one: &str, other: &str| {
        derivation(hash, "user", one, b"salt", 4096).cache_key() == derivation(hash, "user", other, b"salt", 4096).cache_key()
    };
    assert!(same(ScramHash::Sha256, "IX", "\u{2168}"));
    assert!(same(ScramHash::Sha256, "IX", "I\u{ad}X"));
    assert!(same(ScramHash::Sha256, "IV", "I\u{ad}\u{2164}"));
    assert!(!same(ScramHash::Sha256, "IX", "ix"));
    assert!(!same(ScramHash::Sha1, "IX", "\u{2168}"));
    assert!(!same(ScramHash::Sha1, "IX", "I\u{ad}X"));
}

#[test]
fn forbidden_password_is_refused_without_being_shown() {
    let client = ClientFirst::with_nonce(ScramHash::Sha256, "user", &Secret::new("p\u{7}w"), "n".to_owned());
    let error = client.handle_server_first(b"r=nx,s=c2FsdA==,i=4096").map(drop).expect_err("refusal");
    assert_eq!((error.kind(), error.stage()), (ErrorKind::InvalidOption, Some(Stage::Auth)));
    assert!(!format!("{error} {error:?}").contains('\u{7}'));
    assert!(std::error::Error::source(&error).is_none());
}

#[test]
fn derivation_in_slices_yields_the_keys_of_the_library() {
    for (hash, algorithm, size) in
        [(ScramHash::Sha1, ring::pbkdf2::PBKDF2_HMAC_SHA1, 20), (ScramHash::Sha256, ring::pbkdf2::PBKDF2_HMAC_SHA256, 32)]
    {
        let iterations = std::num::NonZeroU32::new(4096).expect("not zero");
        let own = derivation(hash, "user", "pencil", b"salt", iterations.get());
        let mut deriving = own.begin();
        // One iteration is done with the beginning.
        let slices = [0, 1, 7, 4000, 86, 1].map(|slice| deriving.advance(slice));
        let [None, None, None, None, None, Some(keys)] = slices else { panic!("{slices:?}") };
        let password = match hash {
            ScramHash::Sha1 => format!("{:x}", md5::compute("user:mongo:pencil")),
            ScramHash::Sha256 => "pencil".to_owned(),
        };
        let mut salted = vec![0; size];
        ring::pbkdf2::derive(algorithm, iterations, b"salt", password.as_bytes(), &mut salted);
        let algorithm = if hash == ScramHash::Sha1 { ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY } else { ring::hmac::HMAC_SHA256 };
        let server = ring::hmac::sign(&ring::hmac::Key::new(algorithm, &salted), b"Server Key");
        let signature = ring::hmac::sign(&ring::hmac::Key::new(algorithm, server.as_ref()), b"message");
        assert!(keys.signed(b"message", signature.as_ref()));
        assert!(own.run().signed(b"message", signature.as_ref()));
    }
}

#[test]
fn cache_distinguishes_derivations() {
    let mut cache = ScramKeyCache::default();
    let own = derivation(ScramHash::Sha256, "user", "pencil", b"salt", 4096);
    let keys = own.run();
    cache.put(own.cache_key(), keys.clone());
    let again = derivation(ScramHash::Sha256, "user", "pencil", b"salt", 4096);
    let message = |keys| answered(FIRST_256).expect("server first").1.handle_keys(keys).expect("keys").0;
    assert_eq!(message(cache.get(&again.cache_key()).expect("hit")), message(keys));
    for other in [
        derivation(ScramHash::Sha1, "user", "pencil", b"salt", 4096),
        derivation(ScramHash::Sha256, "users", "pencil", b"salt", 4096),
        derivation(ScramHash::Sha256, "user", "pencils", b"salt", 4096),
        derivation(ScramHash::Sha256, "userp", "encil", b"salt", 4096),
        derivation(ScramHash::Sha256, "user", "pencil", b"salty", 4096),
        derivation(ScramHash::Sha256, "user", "pencil", b"salt", 4097),
    ] {
        assert!(cache.get(&other.cache_key()).is_none(), "{other:?}");
    }
}

#[test]
fn cache_is_bounded_and_drops_the_oldest() {
    let mut cache = ScramKeyCache::default();
    let keys = derivation(ScramHash::Sha256, "user", "pencil", b"salt", 4096).run();
    let numbered = |number: usize| derivation(ScramHash::Sha256, "user", "pencil", format!("salt {number}").as_bytes(), 4096);
    for number in 0..=KEYS_MAX {
        cache.put(numbered(number).cache_key(), keys.clone());
    }
    assert!(cache.get(&numbered(0).cache_key()).is_none());
    assert!((1..=KEYS_MAX).all(|number| cache.get(&numbered(number).cache_key()).is_some()));
    cache.put(numbered(1).cache_key(), keys.clone());
    assert!(cache.get(&numbered(2).cache_key()).is_some(), "a known entry makes no room");
}

#[test]
fn keys_of_another_mechanism_are_refused() {
    let keys = derivation(ScramHash::Sha1, "user", "pencil", b"salt", 4096).run();
    let (_, first) = answered(FIRST_256).expect("server first");
    assert_eq!(first.handle_keys(keys).map(drop).expect_err("refusal").kind(), ErrorKind::Internal);
}

#[test]
fn debug_shows_no_secret() {
    let secret = "hunter2";
    let client = ClientFirst::with_nonce(ScramHash::Sha256, "user", &Secret::new(secret), "nonce7".to_owned());
    let mut seen = format!("{client:?}");
    let (derivation, first) = client.handle_server_first(b"r=nonce7x,s=c2FsdA==,i=4096").expect("server first");
    seen += &format!("{derivation:?} {first:?} {:?}", derivation.cache_key());
    let keys = derivation.run();
    let mut cache = ScramKeyCache::default();
    cache.put(derivation.cache_key(), keys.clone());
    seen += &format!("{keys:?} {cache:?}");
    let (_, last) = first.handle_keys(keys).expect("keys");
    seen += &format!("{last:?}");
    for hidden in [secret, "nonce7", "c2FsdA", "115"] {
        assert!(!seen.contains(hidden), "{hidden} in {seen}");
    }
}

#[test]
fn derivation_reports_what_it_costs() {
    let derivation = derivation(ScramHash::Sha1, "user", "pencil", b"salt", 5000);
    assert_eq!((derivation.iterations(), derivation.mechanism().name()), (5000, "SCRAM-SHA-1"));
}

#[test]
fn certificate_login_names_a_user_if_there_is_one() {
    assert_eq!(x509::authenticate(None), bson::rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" });
    assert_eq!(x509::authenticate(Some("CN=x")), bson::rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=x" });
}

#[test]
fn plain_payload_is_user_and_password() {
    let payload = plain::payload("user", &Secret::new("pencil")).expect("payload");
    assert_eq!(payload.as_slice(), b"\0user\0pencil");
    let error = plain::payload("user", &Secret::new("pen\0cil")).expect_err("refusal");
    assert_eq!(error.to_string(), "auth: PLAIN does not allow a NUL in the password");
}
