//! Holds the checked-in code under `src/gen` to the files under `proto`.
//!
//! Generation needs neither protoc nor a build script. After a change of a proto file:
//! `BRAIDLOG_BLESS=1 cargo test --test codegen`.

#![allow(clippy::disallowed_methods, reason = "a test reads and writes the source tree")]

use std::{collections::BTreeMap, fs, path::Path};

const FILES: [&str; 10] = [
    "braidlog/v1/admin.proto",
    "braidlog/v1/batch.proto",
    "braidlog/v1/input.proto",
    "braidlog/v1/record.proto",
    "braidlog/v1/run.proto",
    "braidlog/v1/stream.proto",
    "braidlog/v1/wait.proto",
    "braidlog/v1/watch.proto",
    "braidlog/v1/work.proto",
    "braidlog/storage/v1/storage.proto",
];

/// Answers whose records stay encoded on both sides.
const PRE_ENCODED: [&str; 3] = ["ReadResponse", "TailResponse", "TailSessionResponse"];
/// Code that sizes its buffers by the message.
const CODEC: &str = "crate::grpc::codec::MessageCodec";

fn generate() -> BTreeMap<String, Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("proto")]).expect("proto folder");
    compiler.include_imports(true).include_source_info(true).open_files(FILES).expect("protos");
    let set = compiler.file_descriptor_set();
    let out = tempfile::tempdir().expect("temporary folder");
    let folder = |name: &str| {
        let folder = out.path().join(name);
        fs::create_dir(&folder).expect("create folder");
        folder
    };

    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .out_dir(folder("messages"))
        .compile_fds(set.clone())
        .expect("messages");
    let services = || {
        let services = tonic_prost_build::configure().codec_path(CODEC);
        let services = PRE_ENCODED.iter().fold(services, |services, message| {
            let ours = format!("crate::grpc::encoded::{message}");
            services.extern_path(format!(".braidlog.v1.{message}"), ours)
        });
        services.extern_path(".braidlog.v1", "crate::proto")
    };
    let server = services().build_client(false).out_dir(folder("server"));
    server.compile_fds(set.clone()).expect("server");
    let client = services().build_server(false).out_dir(folder("client"));
    client.compile_fds(set).expect("client");

    let read = |path: &str| fs::read(out.path().join(path)).expect("generated file");
    BTreeMap::from([
        ("messages.rs".into(), read("messages/braidlog.v1.rs")),
        ("storage.rs".into(), read("messages/braidlog.storage.v1.rs")),
        ("server.rs".into(), read("server/braidlog.v1.rs")),
        ("client.rs".into(), read("client/braidlog.v1.rs")),
        ("descriptor.bin".into(), compiler.encode_file_descriptor_set()),
    ])
}

#[test]
fn generated_code_is_what_the_protos_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    for (name, fresh) in generate() {
        let path = folder.join(&name);
        if std::env::var_os("BRAIDLOG_BLESS").is_some() {
            fs::write(&path, &fresh).expect("write generated code");
            continue;
        }
        let stored = fs::read(&path).expect("read generated code");
        assert!(
            stored == fresh,
            "src/gen/{name} is stale: BRAIDLOG_BLESS=1 cargo test --test codegen"
        );
    }
}
