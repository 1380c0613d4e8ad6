//! Pings a deployment: `cargo run --example ping -- mongodb://localhost`.
#[tokio::main]
async fn main() -> mongolink::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let uri = std::env::args().nth(1).unwrap_or_else(|| "mongodb://localhost:27017".into());
    let client = mongolink::Client::new(uri)?;
    let reply = client.database("admin").run_command(mongolink::bson::doc! { "ping": 1 }).await?;
    println!("{reply}");
    println!("{}", client.topology());
    client.shutdown().await;
    Ok(())
}
