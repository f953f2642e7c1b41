//! The default templates of notifications, by Alertmanager's names, written in handlebars: what receivers send that have no
//! templates of their own.
//!
//! Out: names and texts. Touches nothing.

/// Names and texts.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEXTS.into_iter().chain(SAME.into_iter().flat_map(|(text, names)| names.iter().map(move |name| (*name, text))))
}

const TEXTS: [(&str, &str); 18] = [
    ("__subject", SUBJECT),
    ("__text_alert_list", LIST),
    (
        "__text_alert_list_markdown",
        "{{#each this}}{{nl}}Labels:{{nl}}{{#each (pairs labels)}}  - {{Name}} = {{Value}}{{nl}}{{/each}}{{nl}}Annotations:{{nl}}\
         {{#each (pairs annotations)}}  - {{Name}} = {{Value}}{{nl}}{{/each}}{{nl}}Source: {{generatorURL}}{{nl}}{{/each}}{{nl}}",
    ),
    ("slack.default.fallback", FALLBACK),
    ("mattermost.default.fallback", FALLBACK),
    ("opsgenie.default.description", DESCRIPTION),
    ("victorops.default.state_message", DESCRIPTION),
    (
        "wechat.default.message",
        "{{template \"__subject\"}}{{nl}}{{template \"opsgenie.default.description\"}}{{nl}}AlertmanagerUrl:{{nl}}{{template \"__alertmanagerURL\"}}",
    ),
    ("telegram.default.message", BODY),
    ("discord.default.message", BODY),
    ("pagerduty.default.instances", LIST),
    ("jira.default.priority", PRIORITY),
    ("__jira_priority", PRIORITY_OF),
    ("jira.default.description", MARKDOWN),
    ("mattermost.default.text", MARKDOWN),
    ("msteams.default.text", MARKDOWN),
    ("msteamsv2.default.text", MARKDOWN),
    ("email.default.html", include_str!("defaults/email.hbs")),
];

/// Those that several names share.
const SAME: [(&str, &[&str]); 7] = [
    (
        "Alertmanager",
        &[
            "__alertmanager",
            "mattermost.default.username",
            "pagerduty.default.client",
            "rocketchat.default.alias",
            "slack.default.username",
            "victorops.default.monitoring_tool",
        ],
    ),
    ("{{externalURL}}/#/alerts?receiver={{urlquery receiver}}", &["__alertmanagerURL"]),
    (
        "{{template \"__alertmanagerURL\"}}",
        &[
            "mattermost.default.titlelink",
            "opsgenie.default.source",
            "pagerduty.default.clientURL",
            "pushover.default.url",
            "rocketchat.default.titlelink",
            "slack.default.titlelink",
        ],
    ),
    (
        "",
        &[
            "__description",
            "discord.default.content",
            "rocketchat.default.emoji",
            "rocketchat.default.iconurl",
            "rocketchat.default.text",
            "slack.default.callbackid",
            "slack.default.footer",
            "slack.default.iconemoji",
            "slack.default.iconurl",
            "slack.default.pretext",
            "slack.default.text",
            "wechat.default.agent_id",
            "wechat.default.to_party",
            "wechat.default.to_tag",
            "wechat.default.to_user",
        ],
    ),
    (
        "{{template \"__subject\"}}",
        &[
            "discord.default.title",
            "email.default.subject",
            "jira.default.summary",
            "mattermost.default.title",
            "msteams.default.summary",
            "msteams.default.title",
            "msteamsv2.default.title",
            "opsgenie.default.message",
            "pagerduty.default.description",
            "pushover.default.title",
            "rocketchat.default.title",
            "slack.default.title",
            "sns.default.subject",
            "victorops.default.entity_display_name",
        ],
    ),
    ("{{#if (firing alerts)}}danger{{else}}good{{/if}}", &["mattermost.default.color", "slack.default.color"]),
    (
        "{{join \" \" (values commonAnnotations)}}{{template \"telegram.default.message\"}}",
        &["pushover.default.message", "sns.default.message", "webex.default.message"],
    ),
];

/// `[FIRING:2] DiskFull (eu-west-1 page)`: labels of the group, then those that all alerts have besides.
const SUBJECT: &str = "[{{toUpper status}}{{#if (eq status \"firing\")}}:{{len (firing alerts)}}{{/if}}] {{join \" \" (values groupLabels)}} \
     {{#if (gt (len commonLabels) (len groupLabels))}}({{join \" \" (values commonLabels groupLabels)}}){{/if}}";

const FALLBACK: &str = "{{template \"slack.default.title\"}} | {{template \"slack.default.titlelink\"}}";

/// Labels, annotations and source of each alert.
const LIST: &str = "{{#each this}}Labels:{{nl}}{{#each (pairs labels)}} - {{Name}} = {{Value}}{{nl}}{{/each}}Annotations:{{nl}}\
     {{#each (pairs annotations)}} - {{Name}} = {{Value}}{{nl}}{{/each}}Source: {{generatorURL}}{{nl}}{{/each}}";

const DESCRIPTION: &str = "{{join \" \" (values commonAnnotations)}}{{nl}}\
     {{#if (firing alerts)}}Alerts Firing:{{nl}}{{template \"__text_alert_list\" (firing alerts)}}{{/if}}{{nl}}\
     {{#if (resolved alerts)}}Alerts Resolved:{{nl}}{{template \"__text_alert_list\" (resolved alerts)}}{{/if}}";

const BODY: &str = "{{nl}}{{#if (firing alerts)}}{{nl}}Alerts Firing:{{nl}}{{template \"__text_alert_list\" (firing alerts)}}{{nl}}{{/if}}{{nl}}\
     {{#if (resolved alerts)}}{{nl}}Alerts Resolved:{{nl}}{{template \"__text_alert_list\" (resolved alerts)}}{{nl}}{{/if}}{{nl}}";

const MARKDOWN: &str = "{{nl}}{{#if (firing alerts)}}{{nl}}# Alerts Firing:{{nl}}{{template \"__text_alert_list_markdown\" (firing alerts)}}{{nl}}{{/if}}{{nl}}\
     {{#if (resolved alerts)}}{{nl}}# Alerts Resolved:{{nl}}{{template \"__text_alert_list_markdown\" (resolved alerts)}}{{nl}}{{/if}}{{nl}}";

/// Jira's priority: of the highest severity of alerts that fire; of all where none does.
const PRIORITY: &str = "{{#if (firing alerts)}}{{template \"__jira_priority\" (labelValues (firing alerts) \"severity\")}}{{else}}\
     {{template \"__jira_priority\" (labelValues alerts \"severity\")}}{{/if}}";

const PRIORITY_OF: &str = "{{#if (match \"(^|,)critical(,|$)\" (join \",\" this))}}High{{else}}\
     {{#if (match \"(^|,)warning(,|$)\" (join \",\" this))}}Medium{{else}}\
     {{#if (match \"(^|,)info(,|$)\" (join \",\" this))}}Low{{/if}}{{/if}}{{/if}}";
