//! Postgres or Redis away: work in flight finishes, and nothing runs twice for it.

use std::time::Duration;

use prediction::Status;
use queue::Location;
use serde_json::json;
use tokio::time::sleep;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_outlive_a_postgres_that_is_away_for_longer_than_their_lease() {
    let mut postgres = servers::Postgres::start().await;
    let stage = Stage::on_postgres(postgres.create_database().await, Location::InProcess).await;
    let lease = Duration::from_secs(10);
    let worker = stage.worker(|config| config.lease = lease).await;
    let ids = stage.send(vec![json!({"value": 1, "sleep_ms": 9000}); 20], |_| {}).await;
    stage.wait_for(&ids, Status::Processing).await;
    postgres.stop_immediately().await;
    sleep(lease * 3 / 2).await;
    postgres.start_again().await;
    for prediction in stage.wait_for(&ids, Status::Succeeded).await {
        assert_eq!(prediction.attempt, 1);
    }
    let after = stage.send(vec![json!({"value": 2})], |_| {}).await;
    stage.wait_for(&after, Status::Succeeded).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_without_redis_and_with_it_again() {
    let mut redis = servers::Redis::start().await;
    let queue = Location::Redis { url: redis.url(), namespace: "away".to_owned() };
    let stage = Stage::on_postgres(servers::database().await, queue).await;
    let worker = stage.worker(|_| {}).await;
    let work = || stage.send((0..20).map(|n| json!({"value": n, "sleep_ms": 20})).collect(), |_| {});
    let mut ids = work().await;
    redis.stop().await;
    ids.extend(work().await);
    stage.wait_for(&ids, Status::Succeeded).await;
    redis.start_again().await;
    ids.extend(work().await);
    stage.wait_for(&ids, Status::Succeeded).await;
    redis.pause();
    ids.extend(work().await);
    stage.wait_for(&ids, Status::Succeeded).await;
    redis.resume();
    ids.extend(work().await);
    for prediction in stage.wait_for(&ids, Status::Succeeded).await {
        assert_eq!(prediction.attempt, 1);
    }
    worker.stop().await;
}
