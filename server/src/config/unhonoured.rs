//! Keys of Apache ZooKeeper that this server knows and does not honour: for each, why it has no effect, or
//! why a server must not start when it is set.

use super::ProblemKind::{self, BadValue, Conflict, Unsupported};
use Treatment::{NoEffect, Refused};

/// What becomes of a key that is not honoured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Treatment {
    /// The server runs without it; the text says why it has no effect.
    NoEffect(&'static str),
    /// The server must not start if the value asks for this.
    Refused {
        /// The kind of problem that it is.
        kind: ProblemKind,
        /// Whether a value asks for what is not there.
        asks: fn(&str) -> bool,
        /// What is asked for and not there.
        what: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
}

/// What becomes of `key` (without the prefix `zookeeper.`); `None` for a key that is not known.
pub(super) fn treatment(key: &str) -> Option<Treatment> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => key == pattern,
    };
    let found = UNHONOURED
        .iter()
        .find(|(patterns, _)| patterns.iter().any(|p| matches(p)));
    found.map(|(_, treatment)| *treatment)
}

/// The first match counts; a pattern that ends in `*` matches every key that begins so.
const UNHONOURED: &[(&[&str], Treatment)] = &[
    (
        &["secureClientPort"],
        Refused {
            kind: Unsupported,
            asks: |_| true,
            what: "SSL isn't supported: this server has no TLS port for clients",
            advice: "remove secureClientPort, or put a TLS proxy in front of clientPort",
        },
    ),
    (
        &["sslQuorum"],
        Refused {
            kind: Unsupported,
            asks: is_true,
            what: "TLS between servers is not offered",
            advice: "set sslQuorum=false if the network between the servers is trusted",
        },
    ),
    (
        &["sessionRequireClientSASLAuth"],
        Refused {
            kind: Unsupported,
            asks: is_true,
            what: "clients cannot authenticate by SASL here, so that nobody could be served",
            advice: "enforce.auth.enabled=true and enforce.auth.schemes=digest demand a digest",
        },
    ),
    (
        &["quorum.auth.enableSasl"],
        Refused {
            kind: Unsupported,
            asks: is_true,
            what: "authentication between servers by SASL is not offered",
            advice: "remove it if the network between the servers is trusted",
        },
    ),
    (
        &["quorum.auth.learnerRequireSasl"],
        Refused {
            kind: Conflict,
            asks: is_true,
            what: "quorum.auth.enableSasl is disabled, so cannot enable quorum.auth.learnerRequireSasl",
            advice: "remove it: authentication between servers by SASL is not offered",
        },
    ),
    (
        &["quorum.auth.serverRequireSasl"],
        Refused {
            kind: Conflict,
            asks: is_true,
            what: "quorum.auth.enableSasl is disabled, so cannot enable quorum.auth.serverRequireSasl",
            advice: "remove it: authentication between servers by SASL is not offered",
        },
    ),
    (
        &["DigestAuthenticationProvider.digestAlg"],
        Refused {
            kind: Unsupported,
            asks: |value| !matches!(value, "SHA1" | "SHA-1" | "SHA"),
            what: "only SHA1 is offered for the scheme digest",
            advice: "permissions granted to digests of another kind could not be used by anybody",
        },
    ),
    (
        &["emulate353TTLNodes"],
        Refused {
            kind: Unsupported,
            asks: is_true,
            what: "TTL nodes as version 3.5.3 marked them cannot be told from other ephemeral ones",
            advice: "remove it if there are none; otherwise delete them under the old server first",
        },
    ),
    (
        &["electionAlg"],
        Refused {
            kind: BadValue,
            asks: |value| value != "3",
            what: "invalid electionAlg value: only 3 is supported",
            advice: "remove it; 3 is the default",
        },
    ),
    (
        &["metricsProvider.className"],
        Refused {
            kind: BadValue,
            asks: |class| !METRICS_PROVIDERS.contains(&class),
            what: "metrics provider class was not found",
            advice: "classes cannot be loaded here; remove it",
        },
    ),
    (
        &[
            "serverCnxnFactory",
            "nio.*",
            "netty.*",
            "advancedFlowControlEnabled",
            "outstandingHandshake.limit",
            "intBufferStartingSizeBytes",
        ],
        NoEffect("connections are served by this server's own tasks, which need no such tuning"),
    ),
    (
        &[
            "commitProcessor.*",
            "quorum.cnxn.threads.size",
            "learner.asyncSending",
        ],
        NoEffect("it sizes threads and queues of a JVM that this server does not have"),
    ),
    (
        &["leader.closeSocketAsync", "learner.closeSocketAsync"],
        NoEffect("closing a connection never makes this server wait"),
    ),
    (
        &["jvm.pause.*"],
        NoEffect("there is no JVM that could pause"),
    ),
    (
        &[
            "watchManagerName",
            "watcherClean*",
            "maxInProcessingDeadWatchers",
            "bitHashCacheSize",
        ],
        NoEffect("there is one watch manager, which needs no cleaning"),
    ),
    (
        &["maxResponseCacheSize", "maxGetChildrenResponseCacheSize"],
        NoEffect("replies are encoded straight from the tree, without a cache"),
    ),
    (
        &["jute.maxbuffer.extrasize"],
        NoEffect("decoding needs no slack beyond jute.maxbuffer"),
    ),
    (
        &["leader.nodelay", "follower.nodelay"],
        NoEffect("TCP_NODELAY is always set"),
    ),
    (
        &["serializeLastProcessedZxid.enabled"],
        NoEffect("the last zxid is always written into snapshots"),
    ),
    (
        &["enableEagerACLCheck"],
        NoEffect("permissions are always checked before a write is proposed"),
    ),
    (
        &[
            "connection_throttle_*",
            "connectionMaxTokens",
            "connectionTokenFillTime",
            "connectionTokenFillCount",
            "connectionFreezeTime",
            "connectionDropIncrease",
            "connectionDropDecrease",
            "connectionDecreaseRatio",
        ],
        NoEffect("the rate of new sessions is not limited"),
    ),
    (
        &[
            "request_throttle_*",
            "request_stale_*",
            "throttled_op_wait_time",
            "requestThrottle*",
            "requestStale*",
            "throttledOpWaitTime",
        ],
        NoEffect("requests are not throttled beyond globalOutstandingLimit"),
    ),
    (
        &["largeRequestThreshold", "largeRequestMaxBytes"],
        NoEffect("large requests are not counted apart"),
    ),
    (
        &["flushDelay", "maxWriteQueuePollTime", "maxBatchSize"],
        NoEffect("all writes that wait go to the disk in one sync, without a delay"),
    ),
    (
        &[
            "secureClientPortAddress",
            "portUnification",
            "sslQuorumReloadCertFiles",
            "client.*",
        ],
        NoEffect("there is no TLS"),
    ),
    (
        &["ssl.*", "X509AuthenticationProvider.*", "fips-mode"],
        NoEffect("there is no TLS"),
    ),
    (
        &[
            "quorum.auth.*",
            "allowSaslFailedClients",
            "letAnySaslUserDoX",
            "kerberos.*",
            "SASLAuthenticationProvider.*",
            "sasl.*",
            "security.auth_to_local",
        ],
        NoEffect("there is no authentication by SASL"),
    ),
    (
        &["authProvider.*"],
        NoEffect("classes cannot be loaded; world, auth, digest and ip are there"),
    ),
    (
        &["ensembleAuthName"],
        NoEffect("the authentication scheme ensemble is not offered"),
    ),
    (
        &["admin.*", "IPAuthenticationProvider.usexforwardedfor"],
        NoEffect("there is no HTTP admin server; the four-letter words tell the state"),
    ),
    (
        &["metricsProvider.*"],
        NoEffect("there is no HTTP port for metrics; the word mntr tells them"),
    ),
    (&["audit.*"], NoEffect("no audit log is written")),
    (
        &["pathStats.*", "messageTracker.*"],
        NoEffect("requests are not traced by path or packet"),
    ),
    (
        &["oraclePath"],
        NoEffect("there is no oracle for ensembles of two"),
    ),
    (
        &[
            "multiAddress.*",
            "quorumCnxnTimeoutMs",
            "maxConcurrentSnapSyncs",
            "maxConcurrentDiffSyncs",
            "maxTimeToWaitForEpoch",
            "tcpKeepAlive",
            "leader.*",
            "leaderConnectDelayDuringRetryMs",
            "forward_learner_requests_to_commit_processor_disabled",
            "follower.skipLearnerRequestToNextProcessor",
            "observer.*",
            "observerMaster.*",
        ],
        NoEffect("it tunes what servers of an ensemble say to each other"),
    ),
    (
        &["electionPort"],
        NoEffect("the election port comes from the server.N line"),
    ),
];

/// The metrics providers that come with Apache ZooKeeper.
const METRICS_PROVIDERS: [&str; 3] = [
    "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
    "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider",
];

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}
