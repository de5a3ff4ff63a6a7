//! The health check that `docs/gitops.md` has for Argo CD, run as Argo CD runs it.

use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../../docs/gitops.md");
const START: &str = "  resource.customizations.health.bytebase.com_BytebaseCluster: |\n";
const INDENT: &str = "    ";

/// The script as a reader copies it.
fn script() -> String {
    let (_, rest) = PAGE.split_once(START).expect("the page has the script");
    let (script, _) = rest.split_once("```").expect("the block ends");
    let lines = script.lines().map(|line| {
        let line = line.strip_prefix(INDENT);
        line.expect("the script is indented as a block of YAML")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What it makes of a cluster: status and message.
pub fn health(spec: &Value, status: &Value, generation: i64) -> (String, String) {
    let lua = Lua::new();
    let cluster = json!({"metadata": {"generation": generation}, "spec": spec, "status": status});
    let object = lua.to_value(&cluster).unwrap();
    lua.globals().set("obj", object).unwrap();
    let health: mlua::Table = lua.load(script()).eval().unwrap();
    (
        health.get("status").unwrap(),
        health.get("message").unwrap(),
    )
}

#[test]
fn a_cluster_that_was_never_seen_is_in_progress() {
    for status in [Value::Null, json!({}), json!({"observedGeneration": -1})] {
        let mut cluster = json!({"metadata": {"generation": 1}, "spec": {}});
        if !status.is_null() {
            cluster["status"] = status;
        }
        let lua = Lua::new();
        lua.globals()
            .set("obj", lua.to_value(&cluster).unwrap())
            .unwrap();
        let health: mlua::Table = lua.load(script()).eval().unwrap();
        let status: String = health.get("status").unwrap();
        assert_eq!(status, "Progressing", "{cluster}");
    }
}
