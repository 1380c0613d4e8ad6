//! The README's first program: `cargo run --example first --features sandbox`.

#[cfg(feature = "sandbox")]
#[tokio::main]
async fn main() -> mongolink::Result<()> {
    use mongolink::bson::doc;

    // A replica set of three within this process; a deployment of your own has a string of its own.
    let sandbox = mongolink::Sandbox::builder().members(3).start().await.expect("three free ports");

    let client = mongolink::Client::new(sandbox.uri())?;
    let database = client.database("test");
    database.run_command(doc! { "insert": "people", "documents": [{ "name": "Ada" }, { "name": "Grace" }] }).await?;

    let mut people = database.run_cursor_command(doc! { "find": "people", "filter": { "name": "Ada" } }).await?;
    while let Some(person) = people.next().await {
        println!("{}", person?);
    }
    println!("{}", client.topology());
    client.shutdown().await;
    Ok(())
}

#[cfg(not(feature = "sandbox"))]
fn main() {
    println!("this program needs the sandbox: cargo run --example first --features sandbox");
}
