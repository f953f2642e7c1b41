//! UpdateFeatures (key 57), versions 0 to 2. Changes versions of features (KIP-584); those in force are the only ones here.
//!
//! Behaviour: needs Alter on the cluster. The version in force is no change and no error; others get
//! INVALID_UPDATE_VERSION for the whole request. Versions: 1 kinds of upgrade and trial, 2 no results per feature.

use std::collections::HashSet;

use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use crate::protocol::access::{Operation, Resource, refused};
use crate::protocol::context::{Context, NODE};
use crate::protocol::error::{Code, Refusal};
use crate::protocol::features::FEATURES;
use crate::protocol::wire::text;

const UPGRADE: i8 = 1;

fn check(update: &FeatureUpdateKey, version: i16) -> Result<(), Refusal> {
    let (name, wanted) = (&*update.feature, update.max_version_level);
    let invalid = |why: String| {
        let text = format!(
            "The update failed for all features since the following feature had an error: Invalid update version {wanted} for feature {name}. {why}"
        );
        Err((Code::InvalidUpdateVersion, text))
    };
    let Some(feature) = FEATURES.iter().find(|feature| feature.name == name) else {
        return invalid(format!("Local controller {} does not support this feature.", NODE.0));
    };
    let (least, most) = feature.known;
    let is_downgrade = if version >= 1 { update.upgrade_type != UPGRADE } else { update.allow_downgrade };
    if wanted != 0 && !(least..=most).contains(&wanted) || wanted < 0 {
        return invalid(format!("Local controller {} only supports versions {least}-{most}", NODE.0));
    }
    if wanted < feature.level && !is_downgrade {
        let why = "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade.";
        return invalid(why.to_owned());
    }
    if wanted > feature.level && is_downgrade {
        return invalid("Can't downgrade to a newer version.".to_owned());
    }
    if wanted != feature.level {
        return invalid(format!("This broker runs with version {} only.", feature.level));
    }
    Ok(())
}

fn update(cx: &Context, request: &UpdateFeaturesRequest) -> Result<(), Refusal> {
    cx.allowed(Operation::Alter, Resource::Cluster).map_err(refused)?;
    let mut names = HashSet::new();
    for update in &request.feature_updates {
        if !names.insert(&*update.feature) {
            let text = format!("Feature {} is named more than once.", &*update.feature);
            return Err((Code::InvalidRequest, text));
        }
        check(update, cx.version)?;
    }
    Ok(())
}

/// Answers.
pub(crate) fn handle(cx: &Context, request: UpdateFeaturesRequest) -> UpdateFeaturesResponse {
    let answer = UpdateFeaturesResponse::default();
    match update(cx, &request) {
        Ok(()) if cx.version >= 2 => answer.with_error_message(None),
        Ok(()) => {
            let result = |update: FeatureUpdateKey| {
                UpdatableFeatureResult::default().with_feature(update.feature).with_error_message(None)
            };
            answer.with_error_message(None).with_results(request.feature_updates.into_iter().map(result).collect())
        }
        Err((code, why)) => answer.with_error_code(code.code()).with_error_message(Some(text(&why))),
    }
}
