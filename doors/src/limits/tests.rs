//! Tests of the limits of requests: sizes, slow bodies, places.

use futures::stream;

use super::*;

fn limits(edit: impl FnOnce(&mut RequestLimits)) -> Limits {
    let mut config = RequestLimits {
        max_body: 10,
        max_body_key: "api.max_body",
        body_wait: Duration::from_secs(30),
        body_rate: 0,
        body_wait_key: "api.read_timeout",
        max_concurrent: 1,
    };
    edit(&mut config);
    Limits::new(config)
}

/// Chunks of this size, a pause before each.
fn chunks(count: usize, size: usize, pause: Duration) -> Body {
    Body::from_stream(stream::unfold(0, move |sent| async move {
        tokio::time::sleep(pause).await;
        (sent < count).then(|| (Ok::<_, std::io::Error>(vec![b'x'; size]), sent + 1))
    }))
}

async fn read(limits: &Limits, body: Body) -> Result<usize, Refusal> {
    let (body, ticket) = limits.admit(body, false).await?;
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(bytes) => Ok(bytes.len()),
        Err(error) => {
            let refusal = body_refusal(&error, limits.max_body(), "api.max_body");
            assert_eq!(ticket.refusal(limits).is_some(), refusal.status == StatusCode::REQUEST_TIMEOUT);
            Err(refusal)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sizes_are_held_whether_they_are_announced_or_not() {
    let limits = limits(|_| {});
    let now = Duration::ZERO;
    for (body, want) in [
        (Body::from(vec![b'x'; 10]), None),
        (Body::from(vec![b'x'; 11]), Some("body has 11 bytes or more, 10 are allowed (api.max_body)")),
        (chunks(5, 2, now), None),
        (chunks(6, 2, now), Some("body has 11 bytes or more, 10 are allowed (api.max_body)")),
    ] {
        match (read(&limits, body).await, want) {
            (Ok(10), None) => {}
            (Err(refusal), Some(text)) => assert_eq!((refusal.status.as_u16(), refusal.text.as_str()), (413, text)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_are_refused_and_steady_ones_are_not() {
    let secs = Duration::from_secs;
    for (rate, count, size, pause, want) in [
        // One byte in six seconds: over at the thirtieth second.
        (0, 10, 1, secs(6), Err(30)),
        (0, 10, 1, secs(2), Ok(22)),
        // Each byte earns ten seconds.
        (1, 10, 10, secs(9), Ok(99)),
        (1, 10, 1, secs(9), Err(33)),
    ] {
        let limits = limits(|config| (config.body_rate, config.max_body) = (rate, 1000));
        let began = Instant::now();
        let result = read(&limits, chunks(count, size, pause)).await;
        match want {
            Ok(took) => assert_eq!((result, began.elapsed().as_secs()), (Ok(count * size), took)),
            Err(took) => {
                let refusal = result.unwrap_err();
                assert_eq!((refusal.status.as_u16(), began.elapsed().as_secs()), (408, took));
                assert_eq!(refusal.text, "request body timed out (api.read_timeout)");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_place_and_slow_senders_take_none() {
    let limits = limits(|_| {});
    let (slow, _slow_ticket) = limits.admit(chunks(9, 1, Duration::from_secs(1)), false).await.unwrap();
    let slow = axum::body::to_bytes(slow, usize::MAX);
    tokio::pin!(slow);
    let soon = Duration::from_millis(10);
    assert!(tokio::time::timeout(soon, &mut slow).await.is_err());
    let (_, first) = limits.admit(Body::empty(), false).await.unwrap();
    assert!(tokio::time::timeout(soon, limits.admit(Body::empty(), false)).await.is_err(), "the place is taken");
    assert!(limits.admit(Body::empty(), true).await.is_ok(), "probes need none");
    assert!(tokio::time::timeout(Duration::from_secs(20), &mut slow).await.is_err(), "it is there and waits");
    drop(first);
    assert_eq!(slow.await.unwrap().len(), 9);
    assert!(tokio::time::timeout(soon, limits.admit(Body::empty(), false)).await.is_err(), "it has the place now");
    drop(_slow_ticket);
    assert!(limits.admit(Body::empty(), false).await.is_ok(), "it is free again");
}
