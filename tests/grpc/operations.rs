//! What an operator relies on: health, reflection, and a server that stops when it is told to.

use braidlog::{
    Error, IfAbsent, Query, Refusal, RunKey, TailItem,
    grpc::{
        encoded::TailResponse,
        status::{Call, from_status},
    },
    proto,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    raw::{self, reason},
    server::{Server, batch, run, write},
};

fn named(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[test]
fn health_is_told_for_the_process_and_each_service() {
    run(async {
        let mut server = Server::start().await;
        let mut health = HealthClient::new(raw::connect(&server.url()).await);
        for service in
            ["", "braidlog.v1.RunService", "braidlog.v1.StreamService", "braidlog.v1.AdminService"]
        {
            let answer = health.check(named(service)).await.expect("answer").into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        }
        let unknown = health.check(named("other")).await.expect_err("unknown");
        assert_eq!(unknown.code(), Code::NotFound);

        let mut watch = health.watch(named("")).await.expect("watch").into_inner();
        let first = watch.message().await.expect("message").expect("message");
        assert_eq!(first.status(), ServingStatus::Serving);
        server.stop();
        let last = watch.message().await.expect("message").expect("message");
        assert_eq!(last.status(), ServingStatus::NotServing);
        server.stopped().await;
    });
}

#[test]
fn reflection_answers_in_both_versions() {
    run(async {
        let server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let (v1, v1alpha) = (services_v1(channel.clone()).await, services_v1alpha(channel).await);
        for services in [v1, v1alpha] {
            for service in [
                "braidlog.v1.RunService",
                "braidlog.v1.StreamService",
                "braidlog.v1.AdminService",
                "grpc.health.v1.Health",
            ] {
                assert!(services.iter().any(|name| name == service), "{service}: {services:?}");
            }
        }
    });
}

async fn services_v1(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let requests = tokio_stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(requests).await.expect("answers").into_inner();
    match answers.message().await.expect("answer").expect("answer").message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn services_v1alpha(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let requests = tokio_stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(requests).await.expect("answers").into_inner();
    match answers.message().await.expect("answer").expect("answer").message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// A tail that has been told everything there is.
async fn caught_up(channel: &Channel) -> Streaming<TailResponse> {
    let request = proto::TailRequest { run_id: "run".into(), ..Default::default() };
    let tail = raw::server_streaming(channel, "StreamService/Tail", request).await;
    let mut tail: Streaming<TailResponse> = tail.expect("tail");
    while tail.message().await.expect("message").expect("message").caught_up.is_none() {}
    tail
}

#[test]
fn a_server_that_stops_ends_its_tails_with_where_to_resume() {
    run(async {
        let mut server = Server::start().await;
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["1", "2"]).await;
        let channel = raw::connect(&server.url()).await;
        let mut tails = Vec::new();
        for _ in 0..100 {
            tails.push(caught_up(&channel).await);
        }
        let expected = server.store.check_tail(&key, None, None).await.expect("tail").cursor;
        server.stop();
        for mut tail in tails {
            let status = tail.message().await.expect_err("never a clean end");
            let (code, why, values) = reason(&status);
            assert_eq!((code, why.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
            assert_eq!(values["cursor"], expected.to_string());
        }
        server.stopped().await;
    });
}

#[test]
fn a_server_that_stops_acknowledges_what_its_sessions_have_sent() {
    run(async {
        use proto::{
            AppendRecord, AppendSessionRequest, AppendSessionResponse, SessionBatch, SessionOpen,
            append_session_request::Message,
        };
        let mut server = Server::start().await;
        let channel = raw::connect(&server.url()).await;
        let (outgoing, messages) = mpsc::channel(32);
        let open = SessionOpen {
            run_id: "run".into(),
            create_run: true,
            stream: "out".into(),
            ..SessionOpen::default()
        };
        let message = |message| AppendSessionRequest { message: Some(message), lane: 0 };
        outgoing.send(message(Message::Open(open))).await.expect("sent");
        let batch = SessionBatch { records: vec![AppendRecord::default()], ..Default::default() };
        for _ in 0..10 {
            outgoing.send(message(Message::Batch(batch.clone()))).await.expect("sent");
        }
        let path = "StreamService/AppendSession";
        let mut answers: Streaming<AppendSessionResponse> =
            raw::bidirectional(&channel, path, ReceiverStream::new(messages))
                .await
                .expect("opened");
        assert_eq!(answers.message().await.expect("answer").expect("answer").ordinal, 0);
        server.stop();
        let mut answered = 1;
        let status = loop {
            match answers.message().await {
                Ok(Some(_)) => answered += 1,
                Ok(None) => panic!("an idle session is not ended cleanly"),
                Err(status) => break status,
            }
        };
        let (_, why, values) = reason(&status);
        assert_eq!(
            (why, values["ordinal"].clone()),
            ("SHUTTING_DOWN".into(), answered.to_string())
        );
        let stream = server.store.check_tail(&RunKey::new("run"), None, Some("out")).await;
        assert_eq!(stream.expect("tail").stream.expect("stream").tail.0, answered);
        server.stopped().await;
    });
}

#[test]
fn a_server_that_has_stopped_is_unavailable_and_its_store_is_not_harmed() {
    run(async {
        let mut server = Server::start().await;
        let key = RunKey::new("run");
        let client = server.client();
        client.append(&key, batch("out", &["1"]), IfAbsent::Create).await.expect("appended");
        server.stop();
        server.stopped().await;
        let error = client.append(&key, batch("out", &["2"]), IfAbsent::Create).await;
        let error = error.expect_err("nobody is there");
        // Not sent, or on a connection that was just being closed.
        let unavailable = matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown { .. });
        assert!(unavailable, "{error:?}");
        let page = server.store.read(Query::stream(key.clone(), "out")).await.expect("page");
        assert_eq!(page.records.count, 1);
    });
}

#[test]
fn a_store_that_closes_under_a_server_ends_its_tails_and_refuses() {
    run(async {
        let server = Server::start().await;
        let key = RunKey::new("run");
        write(&server.store, &key, "out", &["1"]).await;
        let channel = raw::connect(&server.url()).await;
        let mut tail = caught_up(&channel).await;
        server.store.close().await.expect("closed");
        let status = tail.message().await.expect_err("never a clean end");
        assert_eq!(reason(&status).1, "SHUTTING_DOWN");
        let error = from_status(&status, Call::Read);
        assert!(matches!(error, Error::ShuttingDown), "{error:?}");
        let appended = server.client().append(&key, batch("out", &["2"]), IfAbsent::Refuse).await;
        assert!(matches!(appended, Err(Error::ShuttingDown)), "{appended:?}");
    });
}

#[test]
fn a_run_that_appears_later_is_not_waited_for() {
    run(async {
        let server = Server::start().await;
        let client = server.client();
        let query = || Query::run(RunKey::new("later"));
        let error = client.tail(query()).await.map(|_| ()).expect_err("refused");
        assert!(matches!(error, Error::Refused(Refusal::RunNotFound)), "{error:?}");
        write(&server.store, &RunKey::new("later"), "out", &["1"]).await;
        let mut tail = client.tail(query()).await.expect("tail");
        assert!(matches!(tail.next().await.expect("item"), TailItem::Streams(_)));
    });
}
