//! Who may upload a license, which ones hold, and what several replicas may do without.

use crate::support::{
    eventually,
    keys::{forged_license, license, license_with_header},
    postgres::{Database, PASSWORD},
    process::{Server, Setup},
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const ADMIN: (&str, &str) = ("admin@example.com", "Adm1n-pa55");

/// Signs the administrator up and logs in.
async fn administrator(server: &Server) -> String {
    assert_eq!(server.sign_up(ADMIN.0, ADMIN.1).await, 200);
    server.log_in(ADMIN.0, ADMIN.1).await
}

fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

#[tokio::test]
async fn whoever_signs_up_first_becomes_admin_and_makes_the_workspace() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    assert_eq!(database.number("SELECT count(*) FROM workspace").await, 0);
    assert_eq!(
        server.get("/v1/actuator/info", None).await.1["needAdminSetup"],
        true
    );
    let (one, two, three) = tokio::join!(
        server.sign_up("one@example.com", "pa55word"),
        server.sign_up("two@example.com", "pa55word"),
        server.sign_up("three@example.com", "pa55word")
    );
    assert_eq!((one, two, three), (200, 200, 200));
    assert_eq!(
        database
            .number("SELECT count(*) FROM workspace WHERE NOT deleted")
            .await,
        1
    );
    assert_eq!(
        database
            .number("SELECT jsonb_array_length(payload->'bindings'->0->'members') FROM policy")
            .await,
        1
    );
    assert_eq!(server.sign_up("one@example.com", "another-one").await, 409);
    assert_eq!(server.sign_up("nobody", "pa55word").await, 400);
    assert_eq!(server.sign_up("short@example.com", "pa55wor").await, 400);
    let untitled = json!({"email": "untitled@example.com", "password": "pa55word"});
    let path = "/v1/auth/signup";
    assert_eq!(server.call("POST", path, None, &untitled).await.0, 400);
    let wrong = json!({"email": "one@example.com", "password": "other"});
    assert_eq!(
        server.call("POST", "/v1/auth/login", None, &wrong).await.0,
        401
    );
}

#[tokio::test]
async fn a_sign_up_that_breaks_off_leaves_a_workspace_that_is_only_its_own_emails() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    // Between the workspace and the user in it.
    database
        .execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;
             CREATE TRIGGER fail BEFORE INSERT ON principal EXECUTE FUNCTION fail()",
        )
        .await;
    assert_eq!(server.sign_up(ADMIN.0, ADMIN.1).await, 500);
    let counts =
        "SELECT (SELECT count(*) FROM workspace) || ' ' || (SELECT count(*) FROM principal)";
    assert_eq!(database.text(counts).await, "1 0");
    database.execute("DROP TRIGGER fail ON principal").await;
    assert_eq!(server.sign_up("other@example.com", "pa55word").await, 200);
    let other = server.log_in("other@example.com", "pa55word").await;
    let good = license(&json!({}));
    assert_eq!(server.upload(Some(&other), &good).await, 403);
    let admin = administrator(&server).await;
    assert_eq!(server.upload(Some(&admin), &good).await, 200);
    assert_eq!(database.text(counts).await, "1 2");
}

#[tokio::test]
async fn a_license_needs_the_administrators_token_and_shows_on_every_replica() {
    let database = Database::create().await;
    let quick = Setup::replica(&database).env("BYTEBASE_STUB_LICENSE_CACHE_SECONDS", "0.2");
    let (first, second, third) = (
        Setup::replica(&database).start().await,
        Setup::replica(&database).start().await,
        quick.start().await,
    );
    let admin = administrator(&first).await;
    first.sign_up("user@example.com", "pa55word").await;
    let user = first.log_in("user@example.com", "pa55word").await;
    let good = license(&json!({}));
    assert_eq!(first.upload(None, &good).await, 401);
    assert_eq!(first.upload(Some("nonsense"), &good).await, 401);
    assert_eq!(first.upload(Some(&user), &good).await, 403);

    assert_eq!(second.get("/v1/subscription", None).await.0, 401);
    let shown = async |server: &Server| {
        let (status, shown) = server.get("/v1/subscription", Some(&user)).await;
        assert_eq!(status, 200);
        (shown["plan"].clone(), shown["ha"].clone())
    };
    let (free, licensed) = (
        (json!("FREE"), json!(false)),
        (json!("ENTERPRISE"), json!(true)),
    );
    assert_eq!(shown(&first).await, free);
    assert_eq!(shown(&second).await, free);
    // With line breaks, as people paste it; with a token that the other replica made.
    let (head, tail) = good.split_at(100);
    assert_eq!(
        second
            .upload(Some(&admin), &format!("{head}\n{tail}\r\n"))
            .await,
        200
    );
    let stored =
        "SELECT s.value->>'license' FROM workspace w JOIN setting s ON s.workspace = w.resource_id
                  AND s.name = 'SYSTEM' WHERE NOT w.deleted";
    assert_eq!(database.text(stored).await, good);
    // The one that stored it knows at once, the others when what they remember is old enough: after
    // a minute on the first one.
    assert_eq!(shown(&second).await, licensed);
    eventually("the third one knows", async || {
        shown(&third).await == licensed
    })
    .await;
    assert_eq!(shown(&first).await, free);

    for log in [first.log(), second.log()] {
        for secret in [
            PASSWORD,
            ADMIN.1,
            "pa55word",
            admin.as_str(),
            user.as_str(),
            good.as_str(),
            head,
            "postgres://",
        ] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

#[tokio::test]
async fn a_license_that_does_not_hold_is_a_bad_request() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    let admin = administrator(&server).await;
    let workspace = database.text("SELECT resource_id FROM workspace").await;
    for bad in [
        String::new(),
        "a.b.c".to_owned(),
        forged_license(),
        license_with_header(&json!({"alg": "HS256", "kid": "v1"})),
        license_with_header(&json!({"alg": "PS256", "kid": "v1"})),
        license_with_header(&json!({"alg": "none", "kid": "v1"})),
        license_with_header(&json!({"alg": "RS256", "kid": "v2"})),
        license_with_header(&json!({"alg": "RS256"})),
        license(&json!({"iss": "somebody"})),
        license(&json!({"aud": "bb.user"})),
        license(&json!({"exp": seconds_from_now(-1)})),
        license(&json!({"nbf": seconds_from_now(60)})),
        license(&json!({"workspaceId": "another"})),
        license(&json!({"plan": "GOLD"})),
    ] {
        assert_eq!(server.upload(Some(&admin), &bad).await, 400, "{bad}");
    }
    let empty = json!({});
    assert_eq!(
        server
            .call("PATCH", "/v1/subscription/license", Some(&admin), &empty)
            .await
            .0,
        400
    );
    assert_eq!(
        database
            .number("SELECT count(*) FROM setting WHERE value ? 'license'")
            .await,
        0
    );
    for good in [
        license_with_header(&json!({"alg": "RS384", "kid": "v1"})),
        license_with_header(&json!({"alg": "RS512", "kid": "v1"})),
        license(
            &json!({"aud": "bb.license", "exp": seconds_from_now(60), "nbf": seconds_from_now(-60)}),
        ),
        license(&json!({"workspaceId": workspace})),
        license(&json!({"workspaceId": "another", "trialing": true})),
        license(&json!({"plan": "TEAM", "ha": null})),
    ] {
        assert_eq!(server.upload(Some(&admin), &good).await, 200);
    }
}

#[tokio::test]
async fn a_login_token_ends_after_its_time() {
    let database = Database::create().await;
    let server = Setup::replica(&database)
        .env("BYTEBASE_STUB_TOKEN_SECONDS", "1")
        .start()
        .await;
    let admin = administrator(&server).await;
    eventually("the token is refused", async || {
        server.get("/v1/subscription", Some(&admin)).await.0 == 401
    })
    .await;
}

#[tokio::test]
async fn several_replicas_without_an_ha_license_rest_and_then_fail_all_queued_work() {
    let database = Database::create().await;
    let replica = || Setup::replica(&database).env("BYTEBASE_STUB_RESTRICTION_GRACE_SECONDS", "2");
    let (first, second) = (replica().start().await, replica().start().await);
    first.logs("skipped due to HA license restriction").await;
    second.logs("skipped due to HA license restriction").await;
    database
        .execute("INSERT INTO task_run (status) VALUES ('PENDING'), ('AVAILABLE'), ('DONE')")
        .await;
    let states = "SELECT string_agg(status, ' ' ORDER BY id) FROM task_run";
    assert_eq!(database.text(states).await, "PENDING AVAILABLE DONE");
    eventually("the queue failed", async || {
        database.text(states).await == "FAILED FAILED DONE"
    })
    .await;
    assert!(first.answers().await && second.answers().await);
}

#[tokio::test]
async fn back_at_one_replica_work_goes_on() {
    let database = Database::create().await;
    let first = Setup::replica(&database).start().await;
    let second = Setup::replica(&database).start().await;
    first.logs("skipped due to HA license restriction").await;
    database
        .execute("INSERT INTO task_run DEFAULT VALUES")
        .await;
    drop(second);
    let done = "SELECT count(*) FROM task_run WHERE status = 'DONE'";
    eventually("it is done", async || database.number(done).await == 1).await;
}

#[tokio::test]
async fn an_ha_license_lets_several_replicas_work_until_it_expires() {
    let database = Database::create().await;
    let first = Setup::replica(&database).start().await;
    let admin = administrator(&first).await;
    let short = license(&json!({"plan": "FREE", "exp": seconds_from_now(4)}));
    assert_eq!(first.upload(Some(&admin), &short).await, 200);
    let second = Setup::replica(&database).start().await;
    eventually("both are counted", async || {
        first.get("/v1/actuator/info", None).await.1["replicaCount"] == 2
    })
    .await;
    database
        .execute("INSERT INTO task_run DEFAULT VALUES")
        .await;
    let done = "SELECT count(*) FROM task_run WHERE status = 'DONE'";
    eventually("it is done", async || database.number(done).await == 1).await;
    assert!(!first.log().contains("skipped due to") && !second.log().contains("skipped due to"));
    first.logs("skipped due to HA license restriction").await;
    let (_, subscription) = first.get("/v1/subscription", Some(&admin)).await;
    assert_eq!(subscription["ha"], Value::Bool(false));
}

#[tokio::test]
async fn without_ha_a_replica_never_learns_of_a_license_stored_by_another() {
    let database = Database::create().await;
    let alone = Setup::bare()
        .env("PG_URL", &database.url())
        .env("BYTEBASE_STUB_LICENSE_CACHE_SECONDS", "0")
        .start()
        .await;
    let admin = administrator(&alone).await;
    assert_eq!(
        alone.get("/v1/subscription", Some(&admin)).await.1["plan"],
        "FREE"
    );
    let other = Setup::replica(&database).start().await;
    assert_eq!(other.upload(Some(&admin), &license(&json!({}))).await, 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        alone.get("/v1/subscription", Some(&admin)).await.1["plan"],
        "FREE"
    );
}
