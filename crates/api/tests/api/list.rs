//! Listing predictions.

use crate::harness::{Server, id_of, json_of, problem};
use prediction::PredictionId;
use serde_json::{Value, json};

fn ids(page: &Value) -> Vec<PredictionId> {
    page["results"].as_array().unwrap().iter().map(id_of).collect()
}

async fn follow(server: &Server, address: &Value) -> Value {
    let address = address.as_str().expect("there is another page");
    assert!(address.starts_with(&server.url("/v1/predictions?")), "{address}");
    json_of(server.client.get(address).send().await.unwrap(), 200).await
}

#[tokio::test]
async fn pages_lead_to_the_end_and_back() {
    let server = Server::start().await;
    let mut expected = Vec::new();
    for value in 0..7 {
        expected.insert(0, server.create(value).await);
    }
    let first = server.read("/v1/predictions?limit=3").await;
    assert_eq!(ids(&first), expected[..3]);
    assert_eq!(first["previous"], Value::Null);
    let second = follow(&server, &first["next"]).await;
    assert_eq!(ids(&second), expected[3..6]);
    // What arrives meanwhile shifts nothing.
    let newest = server.create(7).await;
    let third = follow(&server, &second["next"]).await;
    assert_eq!((ids(&third), &third["next"]), (expected[6..].to_vec(), &Value::Null));
    let back = follow(&server, &third["previous"]).await;
    assert_eq!(ids(&back), expected[3..6]);
    let front = follow(&server, &back["previous"]).await;
    assert_eq!(ids(&front), expected[..3]);
    assert_eq!(ids(&follow(&server, &front["previous"]).await), [newest]);
    let all = server.read("/v1/predictions").await;
    assert_eq!((all["results"].as_array().unwrap().len(), &all["next"]), (8, &Value::Null));
    assert!(all["results"][0]["urls"]["get"].is_string() && all["results"][0].get("queue").is_none());
}

#[tokio::test]
async fn filters_choose() {
    let server = Server::start().await;
    let create =
        async |body: Value| id_of(&json_of(server.post("/v1/predictions", &body).send().await.unwrap(), 202).await);
    let plain = create(json!({"model": "augur/echo", "input": {"value": 1}})).await;
    let tagged = json!({"model": "augur/echo", "input": {"value": 1}, "metadata": {"a&b": "ü=1", "n": 5}});
    let tagged = create(tagged).await;
    let digits = create(json!({"model": "augur/digits", "input": {"pixels": vec![0; 64]}})).await;
    server.finish(plain).await;
    let moment = server.read(&format!("/v1/predictions/{tagged}")).await["created_at"].as_str().unwrap().to_owned();
    let moment = moment.replace(':', "%3A").replace('+', "%2B");
    for (query, expected) in [
        ("status=succeeded".to_owned(), vec![plain]),
        ("status=starting".to_owned(), vec![digits, tagged]),
        ("status=failed".to_owned(), vec![]),
        ("model=augur/digits".to_owned(), vec![digits]),
        ("model=augur%2FECHO&status=starting".to_owned(), vec![tagged]),
        ("metadata.a%26b=%C3%BC%3D1".to_owned(), vec![tagged]),
        ("metadata.n=5&metadata.a%26b=%C3%BC%3D1".to_owned(), vec![tagged]),
        ("metadata.n=6".to_owned(), vec![]),
        (format!("created_after={moment}"), vec![digits]),
        (format!("created_before={moment}"), vec![plain]),
    ] {
        assert_eq!(ids(&server.read(&format!("/v1/predictions?{query}")).await), expected, "{query}");
    }
    // The filters stay on from page to page.
    let first = server.read("/v1/predictions?model=augur/echo&limit=1").await;
    let second = follow(&server, &first["next"]).await;
    assert_eq!((ids(&first), ids(&second)), (vec![tagged], vec![plain]));
}

#[tokio::test]
async fn misspelt_and_unreadable_parameters_are_refused() {
    let server = Server::start().await;
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=-1",
        "limit=1&limit=2",
        "status=queued",
        "status=",
        "model=echo",
        "model=..%2Fx",
        "created_after=yesterday",
        "created_before=2026-01-01",
        "metadata=x",
        "order=asc",
        "Limit=5",
        "metadata.a=%00",
        "model=a%00/b",
        "%00=1",
    ] {
        let response = server.get(&format!("/v1/predictions?{query}")).send().await.unwrap();
        problem(response, 400, "malformed_request").await;
    }
    let many: Vec<String> = (0..9).map(|n| format!("metadata.m{n}=1")).collect();
    let response = server.get(&format!("/v1/predictions?{}", many.join("&"))).send().await.unwrap();
    problem(response, 400, "malformed_request").await;
}

#[tokio::test]
async fn cursors_cannot_be_made_altered_or_moved() {
    let server = Server::start().await;
    for value in 0..3 {
        server.create(value).await;
    }
    let page = server.read("/v1/predictions?limit=1").await;
    let (_, cursor) = page["next"].as_str().unwrap().split_once("cursor=").unwrap();
    let mut altered = cursor.to_owned();
    let last = if altered.pop() == Some('A') { 'B' } else { 'A' };
    altered.push(last);
    let forged = [
        altered,
        String::new(),
        "x".to_owned(),
        "A".repeat(66),
        "A".repeat(5000),
        format!("{cursor}A"),
        "%27%20OR%201%3D1".to_owned(),
        format!("{cursor}&status=starting"),
    ];
    for cursor in forged {
        let response = server.get(&format!("/v1/predictions?limit=1&cursor={cursor}")).send().await.unwrap();
        problem(response, 400, "invalid_cursor").await;
    }
    let good = server.read(&format!("/v1/predictions?limit=2&cursor={cursor}")).await;
    assert_eq!(ids(&good).len(), 2);
}
