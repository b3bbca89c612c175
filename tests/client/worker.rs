//! What a worker may rely on.

use std::time::Duration;

use braidlog::{
    NewRecord, Outcome, Query, Refusal, RunError, RunKey, RunStatus,
    client::{Client, Job, Stop, Worker, WorkerOptions},
    core::{CancelRun, Operation},
    engine::{CreateToken, Received, TailItem},
    proto::WaitResult,
};

use super::{
    created,
    proxy::Proxy,
    send,
    server::{Server, bodies, client, persistent, refusal, run},
};

const LONG: Duration = Duration::from_secs(60);
/// The shortest there is.
const TERM: Duration = Duration::from_secs(1);

fn worker(client: &Client, name: &str) -> Worker {
    Worker::new(client.clone(), name, ["t"], WorkerOptions { term: TERM })
}

async fn claimed(client: &Client) -> Job {
    worker(client, "w").claim(LONG).await.expect("asked").expect("a job")
}

async fn output_of(client: &Client, run: &RunKey, stream: &str) -> Vec<String> {
    let page = client.read(Query::stream(run.clone(), stream)).await.expect("page");
    bodies(&page.records)
}

#[test]
fn a_job_is_done_turn_by_turn() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        send(&client, &key, "a", "hello").await;
        let job = claimed(&client).await;
        assert_eq!((&*job.run().run_id, job.attempt(), job.resumed()), ("r", 1, false));
        assert_eq!((job.epoch(), job.owed().len(), job.waits().len()), (1, 1, 0));

        let mut tokens = job.output("tokens").expect("output");
        for n in 0..10 {
            drop(tokens.submit(vec![NewRecord::new(n.to_string())]).await.expect("room"));
        }
        tokens.finish().await.expect("all of it");
        let input = job.take("in", LONG).await.expect("asked").expect("a message");
        let turn = job
            .turn()
            .append("answers", "hello yourself")
            .append("answers", "bye")
            .ack("in", &input)
            .metadata(Operation::increment("turns", "1"))
            .tag("polite")
            .commit()
            .await
            .expect("committed");
        assert_eq!(&turn.metadata[..], br#"{"turns":1}"#);
        assert_eq!(job.take("in", Duration::ZERO).await.expect("asked"), None);
        assert_eq!(job.stop(), None);

        let last = job.turn().append("answers", "really");
        let first_answer = last.complete("done").await.expect("completed");
        let again = last.complete("done").await.expect("the first answer");
        assert!(again.committed.deduplicated);
        assert_eq!(again.committed.first_seq, first_answer.committed.first_seq);
        assert_eq!(job.canceled().await, Stop::Finished);
        assert_eq!(output_of(&client, &key, "tokens").await.concat(), "0123456789");
        assert_eq!(output_of(&client, &key, "answers").await, ["hello yourself", "bye", "really"]);
        let ended = client.get_run(&key).await.expect("run").ended.expect("ended");
        assert_eq!((ended.outcome, &ended.output[..]), (Outcome::Completed, &b"done"[..]));
        let late = refusal(job.turn().append("answers", "late").commit().await);
        assert!(matches!(late, Refusal::Closed { .. }), "{late:?}");
    });
}

#[test]
fn a_job_keeps_its_lease_until_it_is_dropped() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let job = claimed(&client).await;
        tokio::time::sleep(TERM * 3).await;
        assert_eq!(job.stop(), None);
        assert_eq!(client.get_run(&key).await.expect("run").life.epoch, 1);
        drop(job);
        let next = claimed(&client).await;
        assert_eq!((next.epoch(), next.attempt(), next.resumed()), (2, 2, false));
        assert_eq!(next.give_back().await.expect("given back"), RunStatus::Queued);
        let next = claimed(&client).await;
        assert_eq!((next.epoch(), next.attempt()), (3, 3));
        let error = RunError { message: "broken".into(), ..RunError::default() };
        next.turn().fail(error).await.expect("failed");
        let ended = client.get_run(&key).await.expect("run").ended.expect("ended");
        assert_eq!(
            (ended.outcome, ended.error.expect("why").message),
            (Outcome::Failed, "broken".into())
        );
    });
}

#[test]
fn a_job_learns_that_it_is_to_stop() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        // So long a term that renewals would come too late for this test.
        let options = WorkerOptions { term: Duration::from_secs(600) };
        let worker = Worker::new(client.clone(), "w", ["t"], options);
        let job = worker.claim(LONG).await.expect("asked").expect("a job");
        let canceled = tokio::spawn(job.canceled());
        let cancel = CancelRun { reason: "enough".into(), ..CancelRun::default() };
        assert!(!client.cancel_run(&key, cancel).await.expect("asked").closed);
        match canceled.await.expect("no panic") {
            Stop::Canceled(cancel) => assert_eq!(cancel.reason, "enough"),
            other => panic!("{other:?}"),
        }
        job.turn().append("out", "stopped").cancel("so far").await.expect("ended");
        let run = client.get_run(&key).await.expect("run");
        assert_eq!(run.status, RunStatus::Canceled);
    });
}

#[test]
fn a_job_without_its_tail_learns_it_from_renewals_and_answers() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let job = claimed(&client).await;
        let cancel = CancelRun { grace_ms: 60_000, ..CancelRun::default() };
        client.cancel_run(&key, cancel).await.expect("asked");
        let turn = job.turn().append("out", "x").commit().await.expect("committed");
        assert!(turn.cancel.is_some());
        assert!(matches!(job.stop(), Some(Stop::Canceled(_))));
    });
}

#[test]
fn a_fenced_job_is_refused_and_told() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let old = claimed(&client).await;
        let mut output = old.output("out").expect("output");
        output.append(vec![NewRecord::new("old")]).await.expect("appended");
        let held = worker(&client, "x").acquire(&key).await.map(drop);
        assert!(matches!(refusal(held), Refusal::LeaseHeld { epoch: 1, .. }));
        let new = worker(&client, "x").take_over(&key).await.expect("taken over");
        assert_eq!(old.canceled().await, Stop::Lost(Refusal::Fenced { current: 2 }));
        let fenced = Refusal::Fenced { current: 2 };
        assert_eq!(refusal(old.turn().append("out", "x").commit().await), fenced);
        assert_eq!(refusal(old.turn().complete("x").await), fenced);
        assert_eq!(refusal(old.take("in", Duration::ZERO).await), fenced);
        assert_eq!(refusal(old.receive("in", 1).await.map(drop)), fenced);
        assert_eq!(refusal(output.append(vec![NewRecord::new("x")]).await), fenced);
        assert_eq!(refusal(old.give_back().await), fenced);
        let mut output = new.output("out").expect("output");
        output.append(vec![NewRecord::new("new")]).await.expect("appended");
        assert_eq!(output_of(&client, &key, "out").await, ["old", "new"]);
        assert_eq!(new.stop(), None);
    });
}

#[test]
fn an_output_that_is_opened_again_fences_the_one_before() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let job = claimed(&client).await;
        let mut first = job.output("out").expect("output");
        first.append(vec![NewRecord::new("1")]).await.expect("appended");
        let mut second = job.output("out").expect("output");
        second.append(vec![NewRecord::new("2")]).await.expect("appended");
        let stale = refusal(first.append(vec![NewRecord::new("3")]).await);
        assert!(matches!(stale, Refusal::StaleEpoch { .. }), "{stale:?}");
        assert_eq!(job.stop(), None, "the lease is another thing");
        assert_eq!(output_of(&client, &key, "out").await, ["1", "2"]);
    });
}

#[test]
fn a_run_is_suspended_and_goes_on_when_what_it_waits_for_has_come() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let key = created(&client, "r", "t").await;
        let create = CreateToken { token_id: "approval".into(), ..CreateToken::default() };
        client.create_wait_token(create).await.expect("token");
        let job = claimed(&client).await;
        let turn = job.turn().append("out", "may I?").wait_for_token("w", "approval");
        assert_eq!(turn.suspend().await.expect("suspended").status, RunStatus::Waiting);
        assert_eq!(job.stop(), Some(Stop::Finished));
        drop(job);
        let server = server.restart().await;
        let client = server.client();
        let token = RunKey::new("approval");
        client.complete_wait_token(&token, "yes".into(), String::new()).await.expect("completed");
        let job = claimed(&client).await;
        assert_eq!((job.attempt(), job.resumed(), job.epoch()), (1, true, 2));
        let settled = job.wait("w").expect("the wait").settled.clone().expect("settled");
        assert_eq!((settled.result(), &settled.value[..]), (WaitResult::Completed, &b"yes"[..]));
        let turn = job.turn().wait_for_input("w2", "in", braidlog::Index(0));
        turn.suspend().await.expect("suspended");
        send(&client, &key, "m", "go").await;
        let job = claimed(&client).await;
        assert_eq!(
            job.wait("w2").expect("the wait").settled.clone().expect("settled").index,
            Some(0)
        );
        let mut inputs = job.receive("in", 4).await.expect("receives");
        let Received::Inputs(messages) = inputs.next().await.expect("next") else { panic!("end") };
        job.turn().ack("in", &messages[0]).complete("").await.expect("completed");
        assert_eq!(job.run().run_id, key.run_id);
    });
}

#[test]
fn a_job_outlives_a_restart_of_the_server_and_broken_connections() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address).await;
        let client = client(&proxy.url(), persistent());
        let key = created(&client, "r", "t").await;
        let job = claimed(&client).await;
        let mut output = job.output("out").expect("output");
        let mut server = server;
        for n in 0..40 {
            drop(output.submit(vec![NewRecord::new(n.to_string())]).await.expect("room"));
            match n % 10 {
                3 => proxy.cut(),
                7 if n < 20 => server = server.restart().await,
                _ => {}
            }
        }
        output.finish().await.expect("all of it");
        job.turn().complete("").await.expect("completed");
        let expected: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(output_of(&client, &key, "out").await, expected);
        let mut tail = client.tail(Query::stream(key, "out")).await.expect("tail");
        while !matches!(tail.next().await.expect("item"), TailItem::End(..)) {}
        assert!(worker(&client, "w").claim(Duration::ZERO).await.expect("asked").is_none());
        drop(server);
    });
}
