//! The harness itself: its verdict notices each kind of damage that the fault tests look for.

use tests::{Cluster, Load, Plan, seed};

/// One damage of each kind to a sound database. `replica` lets statements pass the triggers: those of the schema, which would
/// refuse them, and those of the audit. Only the last one is left to the audit to notice.
const DAMAGE: &str = r#"
    BEGIN;
    SET LOCAL session_replication_role = replica;
    UPDATE predictions SET output = '"another"' WHERE id = (SELECT id FROM predictions ORDER BY id LIMIT 1);
    DELETE FROM predictions WHERE id = (SELECT id FROM predictions ORDER BY id DESC LIMIT 1);
    INSERT INTO predictions
    SELECT (jsonb_populate_record(NULL::predictions, to_jsonb(p) || jsonb_build_object('id', gen_random_uuid()))).*
    FROM (SELECT * FROM predictions ORDER BY id LIMIT 1) p;
    COMMIT;

    ALTER TABLE predictions DISABLE TRIGGER predictions_terminal;
    UPDATE predictions SET completed_at = completed_at + interval '1 second'
    WHERE id = (SELECT id FROM predictions ORDER BY id OFFSET 5 LIMIT 1);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_damage_is_noticed() {
    let cluster = Cluster::start(Plan { workers: 1, ..Plan::default() }).await;
    let load = Load { count: 20, ..Load::default() };
    let count = load.count;
    let journal = cluster.send(seed(), load).await.expect("everything is accepted");
    cluster.verdict(&journal).await.assert_sound(&journal, count);

    cluster.tamper(DAMAGE).await;
    let verdict = cluster.verdict(&journal).await;
    assert_eq!((verdict.lost.len(), verdict.wrong.len(), verdict.unexpected.len()), (1, 1, 1), "{verdict:?}");
    let faults = verdict.faults(&journal, count).join("\n");
    // Of the row that was inserted nobody saw it end, nor its outcome come.
    for fault in [
        "1 changes of what was terminal",
        "1 predictions that did not end",
        "1 predictions without exactly one outcome",
    ] {
        assert!(faults.contains(fault), "{fault:?} is not among:\n{faults}");
    }
    let twice = tests::Journal { entries: [journal.entries.clone(), vec![journal.entries[0].clone()]].concat() };
    assert!(verdict.faults(&twice, count + 1).join("\n").contains("1 requests without a prediction of their own"));
}
