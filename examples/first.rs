//! The README's program: `cargo run --example first --features sandbox`.

#[cfg(feature = "sandbox")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use mongolink::{Client, Sandbox, bson::doc};

    let sandbox = Sandbox::builder().start().await?;
    let client = Client::new(sandbox.uri())?; // or "mongodb://db.example/?replicaSet=rs0"
    let shop = client.database("shop");
    shop.run_command(doc! { "insert": "orders", "documents": [{ "item": "tea", "total": 12 }] }).await?;
    let mut orders = shop.run_cursor_command(doc! { "find": "orders" }).await?;
    while let Some(order) = orders.next().await {
        println!("{}", order?);
    }
    Ok(())
}

#[cfg(not(feature = "sandbox"))]
fn main() {
    println!("this program needs the sandbox: cargo run --example first --features sandbox");
}
