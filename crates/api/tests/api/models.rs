//! Models and versions, in the shape that Replicate's clients read.

use crate::harness::{Server, config, digits, echo, version};
use serde_json::{Value, json};

#[tokio::test]
async fn models_have_what_clients_demand() {
    let server = Server::start().await;
    let page = server.read("/v1/models").await;
    assert_eq!((&page["next"], &page["previous"]), (&Value::Null, &Value::Null));
    let names: Vec<&str> =
        page["results"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["digits", "echo"]);
    let model = server.read("/v1/models/augur/echo").await;
    assert_eq!(model, page["results"][1]);
    let demanded = json!({
        "url": server.url("/v1/models/augur/echo"), "owner": "augur", "name": "echo", "visibility": "public",
        "description": "Gives back what it is given.", "run_count": 0, "github_url": null, "paper_url": null,
        "license_url": null, "cover_image_url": null, "default_example": null, "task": "echo", "license": "MIT",
        "source": null
    });
    for (field, value) in demanded.as_object().unwrap() {
        assert_eq!(model.get(field), Some(value), "{field}");
    }
    let latest = &model["latest_version"];
    assert_eq!(latest["id"], version('a').as_str());
    let cog: Vec<u32> = latest["cog_version"].as_str().unwrap().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(cog >= vec![0, 3, 9], "replicate-python looks for the output's schema from 0.3.9 on");
    assert_eq!(latest["openapi_schema"]["components"]["schemas"]["Input"], echo('a').input_schema);
    assert_eq!(latest["openapi_schema"]["components"]["schemas"]["Output"], echo('a').output_schema);
    assert_eq!((&latest["input_schema"], &latest["workers"]), (&echo('a').input_schema, &json!(1)));
    assert_eq!(latest["limits"], serde_json::to_value(echo('a').limits).unwrap());
    assert!(latest["created_at"].is_string());
}

#[tokio::test]
async fn versions_are_listed_newest_first_and_named_by_their_first_digits() {
    let server = Server::bare(config()).await;
    server.publish(&[echo('a')]).await;
    server.publish(&[echo('b'), digits()]).await;
    let page = server.read("/v1/models/Augur/Echo/versions").await;
    let ids: Vec<&str> =
        page["results"].as_array().unwrap().iter().map(|version| version["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [version('b').as_str(), version('a').as_str()]);
    for id in [version('a').short(), version('a').as_str()] {
        assert_eq!(server.read(&format!("/v1/models/augur/echo/versions/{id}")).await["id"], version('a').as_str());
    }
    assert_eq!(server.read("/v1/models/augur/echo").await["latest_version"]["id"], version('b').as_str());
}
