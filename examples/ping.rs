//! Pings a deployment: `MONGOLINK_URI=mongodb://localhost cargo run --example ping`, or with the connection string as argument if
//! it has no password, which would be visible in the process list.
#[tokio::main]
async fn main() -> mongolink::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let given = std::env::args().nth(1).or_else(|| std::env::var("MONGOLINK_URI").ok());
    let uri = given.unwrap_or_else(|| "mongodb://localhost:27017".into());
    let client = mongolink::Client::new(uri)?;
    let reply = client.database("admin").run_command(mongolink::bson::doc! { "ping": 1 }).await?;
    println!("{reply}");
    println!("{}", client.topology());
    client.shutdown().await;
    Ok(())
}
