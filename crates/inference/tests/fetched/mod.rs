//! The text-embedding model that `scripts/fetch-test-model` fetches.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Where the script puts it.
pub(crate) fn dir() -> PathBuf {
    let default =
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models/sentence-transformers/all-MiniLM-L6-v2");
    let dir = env::var_os("AUGUR_TEST_MODEL_DIR").map_or_else(default, PathBuf::from);
    assert!(
        dir.join("model.safetensors").is_file(),
        "no test model in {}: run scripts/fetch-test-model",
        dir.display()
    );
    dir
}
