#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mongolink_fuzz::hosts_file(data));
