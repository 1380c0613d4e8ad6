//! connection-monitoring-and-pooling: the options of a pool.
//!
//! The rules of the pool itself are shown by the suite (`tests/spec/cmap.rs`) and the model (`tests/rules/pool_model.rs`).

use mongolink::{ConnectionString, PoolConfig};

use crate::support::ms;

#[test]
fn options_come_from_the_connection_string_and_are_the_same_for_all_pools() {
    let text = "mongodb://a,b/?maxPoolSize=7&minPoolSize=2&maxIdleTimeMS=300&maxConnecting=3&waitQueueTimeoutMS=40";
    let options = ConnectionString::parse(text).expect("options").options;
    let one = PoolConfig::from_options(&options);
    assert_eq!((one.max_size, one.min_size, one.max_connecting, one.max_idle_time), (Some(7), 2, 3, Some(ms(300))));
    assert_eq!(options.wait_queue_timeout_or_default(), Some(ms(40)));
    assert_eq!(format!("{one:?}"), format!("{:?}", PoolConfig::from_options(&options)));
    let plain = PoolConfig::from_options(&ConnectionString::parse("mongodb://a").expect("options").options);
    assert_eq!((plain.max_size, plain.min_size, plain.max_connecting, plain.max_idle_time), (Some(100), 0, 2, None));
    let endless = PoolConfig::from_options(&ConnectionString::parse("mongodb://a/?maxPoolSize=0").expect("options").options);
    assert_eq!(endless.max_size, None);
}

#[test]
fn wait_queue_size_and_wait_queue_multiple_are_not_options() {
    for key in ["waitQueueSize", "waitQueueMultiple"] {
        let read = ConnectionString::parse(&format!("mongodb://a/?{key}=3")).expect("options");
        let [warning] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
        assert!(warning.to_string().contains("is not an option"), "{warning}");
    }
}
