//! `compression.type` of a topic: batches of another codec are written anew, all else stays.

use kafka_protocol::records::RecordBatchDecoder;

use super::*;

const CODECS: [(&str, Compression, u8); 5] = [
    ("uncompressed", Compression::None, 0),
    ("gzip", Compression::Gzip, 1),
    ("snappy", Compression::Snappy, 2),
    ("lz4", Compression::Lz4, 3),
    ("zstd", Compression::Zstd, 4),
];

fn values(batch: &Bytes) -> Vec<(i64, i64, i32, Bytes)> {
    let set = RecordBatchDecoder::decode(&mut batch.clone()).unwrap();
    set.records.into_iter().map(|r| (r.offset, r.timestamp, r.sequence, r.value.unwrap())).collect()
}

#[tokio::test]
async fn the_topics_codec_wins_and_repeats_are_still_known() {
    for (name, _, id) in CODECS {
        let fs = SimFs::new();
        let storage = open(&fs);
        let partition = topic(&storage, &[("compression.type", name)]).await;
        let mut sequence = 0;
        let mut want = Vec::new();
        for (_, sent, _) in CODECS {
            let values: Vec<String> = (0..20).map(|n| format!("value {n} in {name}")).collect();
            let records: Vec<(i64, &str)> = (NOW_MS..).zip(values.iter().map(String::as_str)).collect();
            let batch = batch_of(&records, (7, 0, sequence), sent);
            assert_eq!(append(&partition, batch.clone()).await.unwrap(), i64::from(sequence), "{name} from {sent:?}");
            let again = partition.append(batch, AppendKind::Client).await.unwrap();
            assert!(again.duplicate && again.base_offset == i64::from(sequence));
            want.extend((NOW_MS..).zip(values));
            sequence += 20;
        }
        let storage = restart(storage, &fs).await;
        let partition = storage.topic("t").unwrap().partition(0).unwrap();
        let mut records = partition.read(0, 1 << 20, true).await.unwrap().records;
        let mut got = Vec::new();
        while let Some(header) = Header::parse(&records) {
            let batch = records.split_to(header.size());
            assert!(crc_holds(&header, &batch) && header.codec() == id, "{name}");
            got.extend(values(&batch));
        }
        let want: Vec<_> = (0..).zip(0..).zip(want).map(|((o, s), (t, v))| (o, t, s, Bytes::from(v))).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[tokio::test]
async fn what_grows_beyond_the_limit_is_refused_and_what_shrinks_below_it_too() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let partition = topic(&storage, &[("compression.type", "uncompressed"), ("max.message.bytes", "2000")]).await;
    let long = "x".repeat(5000);
    // As in Kafka both the batch as sent and the batch as stored count.
    for codec in [Compression::Zstd, Compression::None] {
        let refused = append(&partition, batch_of(&[(NOW_MS, &long)], NOBODY, codec)).await;
        assert!(matches!(refused, Err(AppendError::TooLarge { max: 2000, .. })), "{codec:?} {refused:?}");
    }
    assert_eq!(partition.log_end_offset(), 0);
    append(&partition, batch_of(&[(NOW_MS, "short")], NOBODY, Compression::Zstd)).await.unwrap();
}

#[tokio::test]
async fn records_that_cannot_be_unpacked_are_refused_whatever_the_topics_codec() {
    for codec in ["producer", "gzip", "zstd"] {
        let fs = SimFs::new();
        let storage = open(&fs);
        let partition = topic(&storage, &[("compression.type", codec)]).await;
        let mut damaged = batch_of(&[(NOW_MS, "value")], NOBODY, Compression::Gzip).to_vec();
        damaged.truncate(damaged.len() - 12);
        let length = i32::try_from(damaged.len() - 12).unwrap();
        damaged[8..12].copy_from_slice(&length.to_be_bytes());
        batch::tests::reseal(&mut damaged);
        let appended = append(&partition, damaged.into()).await;
        assert!(matches!(appended, Err(AppendError::Invalid(_) | AppendError::Record { .. })), "{codec}: {appended:?}");
    }
}

#[tokio::test]
async fn our_time_changes_the_header_alone() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let partition = topic(&storage, &[("message.timestamp.type", "LogAppendTime")]).await;
    for (_, codec, id) in CODECS {
        let sent = batch_of(&[(5, "a"), (9, "b")], NOBODY, codec);
        let at = append(&partition, sent.clone()).await.unwrap();
        let stored = partition.read(at, 1, true).await.unwrap().records;
        let header = Header::parse(&stored).unwrap();
        assert!(crc_holds(&header, &stored) && header.is_log_append_time());
        assert_eq!((header.codec(), header.max_timestamp, header.base_timestamp), (id, NOW_MS, 5));
        assert_eq!(stored[HEADER..], sent[HEADER..], "{codec:?}");
    }
}
