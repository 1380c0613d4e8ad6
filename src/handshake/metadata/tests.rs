use bson::Document;

use super::*;

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
fn each_platform_tells_its_facts() {
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
fn odd_values_drop_their_field_alone() {
    let odd = [("AWS_EXECUTION_ENV", "AWS_Lambda_java8"), ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "big")];
    assert_eq!(env_of(&odd), Some(bson::doc! { "name": "aws.lambda" }));
    assert_eq!(env_of(&[("AWS_EXECUTION_ENV", "EC2")]), None);
    assert_eq!(env_of(&[("VERCEL", "")]), None);
}

#[test]
fn container_stands_beside_the_platform() {
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
