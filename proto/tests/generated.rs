//! The generated code is committed, so that a build needs no compiler for `.proto` files. Here it is made
//! anew and compared.
//!
//! To accept a change: `UPDATE_GEN=1 cargo test -p why502-proto --test generated`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use prost_reflect::prost::Message as _;

const FILES: &[&str] = &["why502/v1/fact.proto", "why502/v1/ingest.proto", "why502/v1/query.proto"];

#[test]
fn committed_code_is_what_the_proto_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile_dir();
    let descriptors = {
        let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
        // Comments become the documentation of the generated types.
        compiler.include_imports(true).include_source_info(true);
        compiler.open_files(FILES).unwrap();
        compiler
    };
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .out_dir(&fresh)
        .client_mod_attribute(".", "#[cfg(feature = \"transport\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"transport\")]")
        .compile_fds_with_config(descriptors.file_descriptor_set(), config)
        .unwrap();
    let code = fs::read_to_string(fresh.join("why502.v1.rs")).unwrap();
    // protox keeps custom options only in its own encoding of the set.
    let mut plain = protox::Compiler::new([root.join("proto")]).unwrap();
    plain.include_imports(true).include_source_info(false);
    plain.open_files(FILES).unwrap();
    let set = plain.encode_file_descriptor_set();
    prost_types::FileDescriptorSet::decode(set.as_slice()).unwrap();
    fs::remove_dir_all(&fresh).unwrap();

    let committed = root.join("src/gen");
    if std::env::var_os("UPDATE_GEN").is_some() {
        fs::create_dir_all(&committed).unwrap();
        fs::write(committed.join("why502.v1.rs"), &code).unwrap();
        fs::write(committed.join("why502.v1.bin"), &set).unwrap();
        return;
    }
    let how = "run UPDATE_GEN=1 cargo test -p why502-proto --test generated";
    assert_eq!(fs::read_to_string(committed.join("why502.v1.rs")).unwrap(), code, "{how}");
    assert_eq!(fs::read(committed.join("why502.v1.bin")).unwrap(), set, "{how}");
}

fn tempfile_dir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("why502-gen-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}
