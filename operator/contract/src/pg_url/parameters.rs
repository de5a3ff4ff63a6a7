//! Which parameter belongs to whom: to the driver, to Bytebase, or to the PostgreSQL server.

/// Consumed by the driver (pgx) of every supported Bytebase, beside those that have a field of
/// their own in `PgUrl`.
const DRIVER: &[&str] = &[
    "connect_timeout",
    "default_query_exec_mode",
    "description_cache_capacity",
    "krbspn",
    "krbsrvname",
    "passfile",
    "service",
    "servicefile",
    "sslcert",
    "sslkey",
    "sslsni",
    "statement_cache_capacity",
];

/// Settings of libpq and of newer drivers. Bytebase's driver does not know them and hands them to
/// the server, which refuses the connection.
const NOT_OF_THIS_DRIVER: &[&str] = &[
    "channel_binding",
    "max_protocol_version",
    "min_protocol_version",
    "require_auth",
    "sslnegotiation",
];

/// Those of `DRIVER` that make the driver open a file in the pod (`sslrootcert` has a field of its
/// own).
pub(super) const POD_FILES: &[&str] = &["passfile", "service", "servicefile", "sslcert", "sslkey"];

pub(super) const AWS_IAM: &str = "bytebase_aws_rds_iam";
pub(super) const AWS_REGION: &str = "bytebase_aws_region";
pub(super) const GCP_IAM: &str = "bytebase_gcp_cloud_sql_iam";
pub(super) const GCP_INSTANCE: &str = "bytebase_gcp_cloud_sql_instance_connection_name";
pub(super) const GCP_IP_TYPE: &str = "bytebase_gcp_cloud_sql_ip_type";

/// Names with a field of their own in `PgUrl`. `dbname` is read as `database` before it comes here.
pub(super) const OWN: &[&str] = &[
    "host",
    "port",
    "user",
    "password",
    "database",
    "sslmode",
    "sslrootcert",
    "sslpassword",
    "target_session_attrs",
    AWS_IAM,
    AWS_REGION,
    GCP_IAM,
    GCP_INSTANCE,
    GCP_IP_TYPE,
];

/// Bytebase takes a text as keyword/value form if one blank-separated field of it assigns one of
/// these (or a `bytebase_…` one).
pub(super) const MARKS_KEYWORD_FORM: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "database",
    "user",
    "password",
    "passfile",
    "connect_timeout",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "service",
    "servicefile",
    "target_session_attrs",
    "application_name",
    AWS_IAM,
    AWS_REGION,
    GCP_IAM,
    GCP_INSTANCE,
    GCP_IP_TYPE,
];

/// Names that other drivers, libpq or people use. The program knows them, so an error may repeat
/// them.
const FOREIGN: &[&str] = &[
    "ApplicationName",
    "allowPublicKeyRetrieval",
    "binary_parameters",
    "charSet",
    "charset",
    "connectTimeout",
    "connection_limit",
    "currentSchema",
    "current_schema",
    "db",
    "encoding",
    "fallback_application_name",
    "gssencmode",
    "hostaddr",
    "hostname",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "loc",
    "loginTimeout",
    "max_conns",
    "min_read_buffer_size",
    "parseTime",
    "pass",
    "pgbouncer",
    "pool_health_check_period",
    "pool_max_conn_idle_time",
    "pool_max_conn_lifetime",
    "pool_max_conns",
    "pool_min_conns",
    "pool_timeout",
    "prefer_simple_protocol",
    "prepareThreshold",
    "prepared_statements",
    "pwd",
    "reWriteBatchedInserts",
    "replication",
    "requirepeer",
    "schema",
    "server",
    "socketTimeout",
    "socket_timeout",
    "ssl",
    "sslMode",
    "ssl_mode",
    "sslaccept",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslfactory",
    "sslidentity",
    "sslinline",
    "statement_cache_size",
    "targetServerType",
    "tcpKeepAlive",
    "timeout",
    "uselibpqcompat",
    "username",
];

/// Settings that PostgreSQL 14 to 18 let a client choose for its session, in lower case as the
/// server compares them. (`options` is not one but is legal at start-up as well.) Some need a
/// privileged role; the server says so.
const SERVER: &str = "
allow_in_place_tablespaces allow_system_table_mods application_name array_nulls backend_flush_after backslash_quote
backtrace_functions bytea_output check_function_bodies client_connection_check_interval client_encoding client_min_messages
commit_delay commit_siblings compute_query_id constraint_exclusion cpu_index_tuple_cost cpu_operator_cost cpu_tuple_cost
createrole_self_grant cursor_tuple_fraction datestyle deadlock_timeout debug_discard_caches
debug_logical_replication_streaming debug_parallel_query debug_pretty_print debug_print_parse debug_print_plan
debug_print_rewritten default_statistics_target default_table_access_method default_tablespace default_text_search_config
default_toast_compression default_transaction_deferrable default_transaction_isolation default_transaction_read_only
default_with_oids dynamic_library_path effective_cache_size effective_io_concurrency enable_async_append enable_bitmapscan
enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin
enable_incremental_sort enable_indexonlyscan enable_indexscan enable_material enable_memoize enable_mergejoin
enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate
enable_partitionwise_join enable_presorted_aggregate enable_self_join_elimination enable_seqscan enable_sort enable_tidscan
escape_string_warning event_triggers exit_on_error extension_control_path extra_float_digits file_copy_method
force_parallel_mode from_collapse_limit geqo geqo_effort geqo_generations geqo_pool_size geqo_seed geqo_selection_bias
geqo_threshold gin_fuzzy_search_limit gin_pending_list_limit hash_mem_multiplier icu_validation_level
idle_in_transaction_session_timeout idle_session_timeout ignore_checksum_failure ignore_system_indexes intervalstyle
io_combine_limit jit jit_above_cost jit_debugging_support jit_dump_bitcode jit_expressions jit_inline_above_cost
jit_optimize_above_cost jit_profiling_support jit_tuple_deforming join_collapse_limit lc_messages lc_monetary lc_numeric
lc_time lo_compat_privileges local_preload_libraries lock_timeout log_connections log_disconnections log_duration
log_error_verbosity log_executor_stats log_lock_failures log_lock_waits log_min_duration_sample
log_min_duration_statement log_min_error_statement log_min_messages log_parameter_max_length
log_parameter_max_length_on_error log_parser_stats log_planner_stats log_replication_commands log_statement
log_statement_sample_rate log_statement_stats log_temp_files log_transaction_sample_rate logical_decoding_work_mem
maintenance_io_concurrency maintenance_work_mem max_parallel_maintenance_workers max_parallel_workers
max_parallel_workers_per_gather max_stack_depth min_parallel_index_scan_size min_parallel_table_scan_size options
parallel_leader_participation parallel_setup_cost parallel_tuple_cost password_encryption plan_cache_mode post_auth_delay
quote_all_identifiers random_page_cost recursive_worktable_factor restrict_nonsystem_relation_kind role row_security
scram_iterations search_path seed seq_page_cost session_authorization session_preload_libraries session_replication_role
standard_conforming_strings statement_timeout stats_fetch_consistency synchronize_seqscans synchronous_commit
tcp_keepalives_count tcp_keepalives_idle tcp_keepalives_interval tcp_user_timeout temp_buffers temp_file_limit
temp_tablespaces timezone timezone_abbreviations trace_notify trace_sort track_activities track_cost_delay_timing
track_counts track_functions track_io_timing track_wal_io_timing transaction_deferrable transaction_isolation
transaction_read_only transaction_timeout transform_null_equals update_process_title vacuum_buffer_usage_limit
vacuum_cost_delay vacuum_cost_limit vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age
vacuum_freeze_min_age vacuum_freeze_table_age vacuum_max_eager_freeze_failure_rate vacuum_multixact_failsafe_age
vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age vacuum_truncate wal_compression
wal_consistency_checking wal_init_zero wal_recycle wal_sender_timeout wal_skip_threshold work_mem xmlbinary xmloption
zero_damaged_pages
";

/// Who takes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A field of `PgUrl`.
    Own,
    /// The driver.
    Driver,
    /// Other drivers than Bytebase's.
    OtherDriver(&'static str),
    /// The server, as a setting of the session.
    Server,
    /// None of these.
    Unknown,
}

pub(super) fn owner(name: &str) -> Owner {
    if OWN.contains(&name) {
        return Owner::Own;
    }
    if DRIVER.contains(&name) {
        return Owner::Driver;
    }
    if let Some(known) = NOT_OF_THIS_DRIVER.iter().find(|known| **known == name) {
        return Owner::OtherDriver(known);
    }
    if is_custom_setting(name)
        || SERVER
            .split_ascii_whitespace()
            .any(|known| known.eq_ignore_ascii_case(name))
    {
        return Owner::Server;
    }
    Owner::Unknown
}

/// A setting of an extension or application, such as `myapp.user`: the server takes any whose parts
/// are identifiers.
fn is_custom_setting(name: &str) -> bool {
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
    };
    // `_pq_.…` is reserved for the protocol itself.
    name.contains('.') && !name.starts_with("_pq_.") && name.split('.').all(is_identifier)
}

/// The name as the program itself knows it, so that an error can repeat it without repeating its
/// input.
pub(super) fn known_name(name: &str) -> Option<&'static str> {
    all_names()
        .chain(FOREIGN.iter().copied())
        .find(|known| *known == name)
}

/// The known name that was probably meant.
pub(super) fn similar_name(name: &str) -> Option<&'static str> {
    // Names of other tools that have a counterpart here under another name.
    match name {
        "schema" | "currentSchema" | "current_schema" => return Some("search_path"),
        "ssl" | "ssl_mode" => return Some("sslmode"),
        "connectTimeout" | "timeout" | "loginTimeout" => return Some("connect_timeout"),
        "hostaddr" | "hostname" | "server" => return Some("host"),
        "username" => return Some("user"),
        "db" => return Some("database"),
        "pass" | "pwd" => return Some("password"),
        "targetServerType" => return Some("target_session_attrs"),
        "ApplicationName" | "fallback_application_name" => return Some("application_name"),
        "charset" | "charSet" | "encoding" => return Some("client_encoding"),
        _ => {}
    }
    let lower = name.trim().to_ascii_lowercase();
    if !(4..=63).contains(&lower.len()) {
        return None;
    }
    all_names()
        .map(|known| (edit_distance(&lower, known), known))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, known)| known)
}

fn all_names() -> impl Iterator<Item = &'static str> {
    OWN.iter()
        .chain(DRIVER)
        .chain(NOT_OF_THIS_DRIVER)
        .copied()
        .chain(SERVER.split_ascii_whitespace())
}

/// Insertions, deletions and replacements (Levenshtein), by bytes.
fn edit_distance(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_has_one_owner() {
        for (name, expected) in [
            ("sslmode", Owner::Own),
            ("bytebase_aws_rds_iam", Owner::Own),
            ("default_query_exec_mode", Owner::Driver),
            ("channel_binding", Owner::OtherDriver("channel_binding")),
            ("search_path", Owner::Server),
            ("options", Owner::Server),
            ("TimeZone", Owner::Server),
            ("DateStyle", Owner::Server),
            ("myapp.user", Owner::Server),
            ("a.b.c", Owner::Server),
            ("schema", Owner::Unknown),
            ("pgbouncer", Owner::Unknown),
            ("sslmode ", Owner::Unknown),
            ("SSLMODE", Owner::Unknown),
            ("replication", Owner::Unknown),
            ("shared_buffers", Owner::Unknown),
            ("_pq_.x", Owner::Unknown),
            ("a..b", Owner::Unknown),
            (".", Owner::Unknown),
            ("1.a", Owner::Unknown),
            ("", Owner::Unknown),
        ] {
            assert_eq!(owner(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_misspelt_name_is_recognised() {
        for (name, expected) in [
            ("sslmode ", Some("sslmode")),
            ("SslMode", Some("sslmode")),
            ("ssl_mode", Some("sslmode")),
            ("aplication_name", Some("application_name")),
            ("serach_path", Some("search_path")),
            ("schema", Some("search_path")),
            ("statement-timeout", Some("statement_timeout")),
            ("zzz", None),
            ("something_else_entirely", None),
        ] {
            assert_eq!(similar_name(name), expected, "{name:?}");
        }
    }
}
