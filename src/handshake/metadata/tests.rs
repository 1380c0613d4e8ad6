use bson::Document;

use super::*;
use crate::handshake::driver_info::LIBRARIES_MAX;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let variables: Vec<(String, String)> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment {
        os_type: "Linux".to_owned(),
        os_name: Some("Debian".to_owned()),
        os_architecture: Some("x86_64".to_owned()),
        os_version: Some("12".to_owned()),
        platform: "Rust".to_owned(),
        docker: false,
        variables: Arc::new(move |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())),
    }
}

fn metadata(environment: &Environment) -> (Document, bool) {
    let metadata = ClientMetadata::new(Some("app"), environment).expect("metadata");
    let size = metadata.document().as_bytes().len();
    assert!(size <= METADATA_SIZE_MAX, "{size} bytes");
    let document: &bson::RawDocument = metadata.document();
    (Document::try_from(document).expect("document"), metadata.is_faas())
}

fn env_of(variables: &[(&str, &str)]) -> Option<Document> {
    let (document, faas) = metadata(&environment(variables));
    let env = document.get_document("env").ok().cloned();
    assert_eq!(faas, env.as_ref().is_some_and(|env| env.contains_key("name")));
    env
}

#[test]
fn plain_process_tells_application_driver_os_and_platform() {
    let (document, faas) = metadata(&environment(&[]));
    let expected = bson::doc! {
        "application": { "name": "app" }, "driver": { "name": "mongolink", "version": env!("CARGO_PKG_VERSION") },
        "os": { "type": "Linux", "name": "Debian", "architecture": "x86_64", "version": "12" }, "platform": "Rust",
    };
    assert_eq!(document, expected);
    assert!(!faas);
}

#[test]
fn each_platform_is_detected() {
    let lambda = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_REGION", "us-east-2"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024")];
    assert_eq!(env_of(&lambda), Some(bson::doc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2" }));
    assert_eq!(env_of(&[("FUNCTIONS_WORKER_RUNTIME", "node")]), Some(bson::doc! { "name": "azure.func" }));
    let gcp =
        [("K_SERVICE", "servicename"), ("FUNCTION_MEMORY_MB", "1024"), ("FUNCTION_TIMEOUT_SEC", "60"), ("FUNCTION_REGION", "us-central1")];
    assert_eq!(env_of(&gcp), Some(bson::doc! { "name": "gcp.func", "timeout_sec": 60, "memory_mb": 1024, "region": "us-central1" }));
    let vercel = [("VERCEL", "1"), ("VERCEL_REGION", "cdg1")];
    assert_eq!(env_of(&vercel), Some(bson::doc! { "name": "vercel", "region": "cdg1" }));
}

#[test]
fn several_platforms_are_none_but_vercel_on_lambda() {
    assert_eq!(env_of(&[("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("FUNCTIONS_WORKER_RUNTIME", "node")]), None);
    assert_eq!(env_of(&[("VERCEL", "1"), ("K_SERVICE", "x")]), None);
    let both = [("AWS_LAMBDA_RUNTIME_API", "x"), ("AWS_REGION", "us-east-2"), ("VERCEL", "1")];
    assert_eq!(env_of(&both), Some(bson::doc! { "name": "vercel" }));
}

#[test]
fn long_region_is_left_out() {
    let region = "a".repeat(512);
    let variables = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_REGION", region.as_str())];
    assert_eq!(env_of(&variables), Some(bson::doc! { "name": "aws.lambda" }));
}

#[test]
fn invalid_values_drop_only_their_field() {
    let odd = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "big")];
    assert_eq!(env_of(&odd), Some(bson::doc! { "name": "aws.lambda" }));
    assert_eq!(env_of(&[("AWS_EXECUTION_ENV", "EC2")]), None);
    assert_eq!(env_of(&[("VERCEL", "")]), None);
}

#[test]
fn container_is_reported_with_the_platform() {
    let both = [
        ("AWS_EXECUTION_ENV", "AWS_Lambda_java8"),
        ("AWS_REGION", "us-east-2"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
        ("KUBERNETES_SERVICE_HOST", "1"),
    ];
    let expected =
        bson::doc! { "name": "aws.lambda", "memory_mb": 1024, "region": "us-east-2", "container": { "orchestrator": "kubernetes" } };
    assert_eq!(env_of(&both), Some(expected));
    let mut docker = environment(&[]);
    docker.docker = true;
    let (document, faas) = metadata(&docker);
    assert_eq!(document.get_document("env").expect("env"), &bson::doc! { "container": { "runtime": "docker" } });
    assert!(!faas);
    let several = [("VERCEL", "1"), ("K_SERVICE", "x"), ("KUBERNETES_SERVICE_HOST", "1")];
    assert_eq!(env_of(&several), Some(bson::doc! { "container": { "orchestrator": "kubernetes" } }));
}

#[test]
fn fields_go_in_the_order_of_the_specification() {
    let mut large = environment(&[("VERCEL", "1"), ("VERCEL_REGION", "cdg1"), ("KUBERNETES_SERVICE_HOST", "1")]);
    large.os_version = Some("v".repeat(400));
    let (document, _) = metadata(&large);
    assert_eq!(document.get_document("env").expect("env"), &bson::doc! { "name": "vercel" });
    assert_eq!(document.get_document("os").expect("os"), &bson::doc! { "type": "Linux" });

    large.os_version = None;
    large.platform = "ü".repeat(600);
    let (document, faas) = metadata(&large);
    assert!(!document.contains_key("env") && faas);
    assert_eq!(document.get_document("os").expect("os"), &bson::doc! { "type": "Linux" });
    assert!(document.get_str("platform").expect("platform").len() > 300);
    large.os_type = "o".repeat(1000);
    assert!(metadata(&large).0.contains_key("os"));
}

#[test]
fn no_text_makes_it_too_large() {
    for size in [0, 1, 100, 128] {
        for platform in 0..600 {
            let mut environment = environment(&[("VERCEL", "1")]);
            environment.platform = "p".repeat(platform);
            environment.os_type = "o".repeat(platform);
            let metadata = ClientMetadata::new(Some(&"a".repeat(size)), &environment).expect("metadata");
            assert!(metadata.document().as_bytes().len() <= METADATA_SIZE_MAX, "{size} {platform}");
        }
    }
}

#[test]
fn long_application_name_is_refused() {
    let error = ClientMetadata::new(Some(&"a".repeat(129)), &environment(&[])).expect_err("refusal");
    assert_eq!(error.to_string(), "uri: appName of 129 bytes (limit appName of 128 bytes)");
}

fn library() -> DriverInfo {
    DriverInfo::new("library").with_version("1.2").with_platform("Library Platform")
}

fn with(libraries: &[DriverInfo]) -> Document {
    let metadata = ClientMetadata::new(Some("app"), &environment(&[])).expect("metadata");
    let mut infos = DriverInfos::default();
    for library in libraries {
        infos.append(library.clone()).expect("appended");
    }
    let document = metadata.document_with(&infos);
    assert!(document.as_bytes().len() <= METADATA_SIZE_MAX);
    let document: &bson::RawDocument = &document;
    Document::try_from(document).expect("document")
}

/// What the libraries are called in the three fields, without the driver's own part.
fn told(document: &Document) -> [String; 3] {
    let driver = document.get_document("driver").expect("driver");
    let plain = |text: &str| text.split('|').skip(1).collect::<Vec<_>>().join("|");
    [
        plain(driver.get_str("name").expect("name")),
        plain(driver.get_str("version").expect("version")),
        plain(document.get_str("platform").expect("platform")),
    ]
}

/// mongodb-handshake, client metadata update, 1 and 2.
#[test]
fn library_is_appended_to_what_is_there() {
    let framework = DriverInfo::new("framework");
    for (info, expected) in [
        (
            framework.clone().with_version("2.0").with_platform("Framework Platform"),
            ["library|framework", "1.2|2.0", "Library Platform|Framework Platform"],
        ),
        (framework.clone().with_version("2.0"), ["library|framework", "1.2|2.0", "Library Platform"]),
        (framework.clone().with_platform("Framework Platform"), ["library|framework", "1.2", "Library Platform|Framework Platform"]),
        (framework, ["library|framework", "1.2", "Library Platform"]),
    ] {
        let document = with(&[library(), info]);
        assert_eq!(told(&document), expected);
        let plain = with(&[]);
        for field in ["application", "os"] {
            assert_eq!(document.get(field), plain.get(field));
        }
        assert_eq!(document.get_str("platform").expect("platform").split('|').next(), plain.get_str("platform").ok());
    }
}

/// mongodb-handshake, client metadata update, 3.
#[test]
fn only_a_library_that_is_the_same_in_all_fields_is_not_appended() {
    let info = |name, version, platform| DriverInfo::new(name).with_version(version).with_platform(platform);
    let (own, other) = (["library", "1.2", "Library Platform"], ["framework", "2.0", "Framework Platform"]);
    for choice in 0..8_usize {
        let field = |at: usize| if choice & (1 << at) == 0 { own[at] } else { other[at] };
        let document = with(&[library(), info(field(0), field(1), field(2))]);
        let expected = [0, 1, 2].map(|at| if choice == 0 { own[at].to_owned() } else { format!("{}|{}", own[at], field(at)) });
        assert_eq!(told(&document), expected);
    }
}

/// mongodb-handshake, client metadata update, 4 to 6.
#[test]
fn known_library_is_not_appended_again_after_others() {
    let framework = DriverInfo::new("framework").with_version("2.0");
    let once = with(&[library(), framework.clone()]);
    assert_eq!(with(&[library(), framework.clone(), library()]), once);
    assert_eq!(with(&[library(), framework.clone(), framework.clone(), library(), framework]), once);
}

/// mongodb-handshake, client metadata update, 7 and 8.
#[test]
fn empty_text_of_a_library_counts_as_none() {
    let bare = DriverInfo::new("library").with_platform("Library Platform");
    let once = with(std::slice::from_ref(&bare));
    assert_eq!(with(&[bare.clone(), bare.clone().with_version("")]), once);
    assert_eq!(with(&[bare.clone().with_version(""), bare]), once);
    let bare = DriverInfo::new("library").with_version("1.2");
    assert_eq!(with(&[bare.clone().with_platform(""), bare.clone()]), with(std::slice::from_ref(&bare)));
    assert_eq!(with(&[DriverInfo::new("").with_version("").with_platform("")]), with(&[]));
}

#[test]
fn delimiter_in_a_library_is_refused_and_changes_nothing() {
    let mut infos = DriverInfos::default();
    for bad in [DriverInfo::new("a|b"), DriverInfo::new("a").with_version("|"), DriverInfo::new("a").with_platform("x|")] {
        let error = infos.append(bad).expect_err("refusal");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("must not contain \"|\""), "{error}");
    }
    assert!(infos.as_slice().is_empty());
}

#[test]
fn libraries_are_bounded_in_number_and_size() {
    let mut libraries = DriverInfos::default();
    for number in 0..LIBRARIES_MAX {
        assert!(libraries.append(DriverInfo::new(format!("library {number}"))).expect("taken"));
    }
    let error = libraries.append(DriverInfo::new("one more")).expect_err("too many");
    assert_eq!((error.kind(), error.limit().map(|limit| limit.name)), (ErrorKind::InvalidArgument, Some("LIBRARIES_MAX")));
    assert!(!libraries.append(DriverInfo::new("library 3")).expect("known"));
    let error = DriverInfo::new("x").with_platform("y".repeat(1025)).check().expect_err("too long");
    assert_eq!(error.to_string(), "driver info: the platform has 1025 bytes (limit LIBRARY_TEXT_SIZE_MAX of 1024 bytes)");
}

#[test]
fn libraries_that_do_not_fit_are_left_out_the_latest_first() {
    let long = |letter: &str| DriverInfo::new(letter.repeat(150)).with_version("1").with_platform("p".repeat(600));
    let document = with(&[library(), long("a"), long("b"), long("c")]);
    let names = told(&document)[0].clone();
    assert!(names.starts_with("library|aaa") && !names.contains('c'), "{names}");
    assert_eq!(told(&with(&[DriverInfo::new("x".repeat(600))])), ["", "", ""]);
}
