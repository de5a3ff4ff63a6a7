SELECT extract(epoch FROM clock_timestamp())::float8 AS clock, pg_is_in_recovery() AS is_standby,
  current_user <> session_user AS has_other_role,
  (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1) AS sessions,
  (SELECT CASE WHEN bool_or(state = 'active') THEN 0 ELSE extract(epoch FROM clock_timestamp() - max(state_change)) END
    FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)::float8 AS quiet,
  ({heartbeats}) AS heartbeats,
  EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = $3::oid AND l.objsubid = 1 AND l.granted
    AND (a.application_name = $1 OR current_setting('application_name') <> $5)
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS migrates,
  EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = $3::oid AND l.objsubid = 1 AND NOT l.granted
    AND a.application_name = $1 AND a.backend_start >= clock_timestamp() - make_interval(secs => $2)
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS starts,
  EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $4::oid
    AND objid = (SELECT {session_key}::oid FROM pg_stat_activity WHERE pid = pg_backend_pid()) AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS asked,
  current_setting('application_name') = $5 AS keeps_names,
  to_regclass('replica_heartbeat') IS NOT NULL AS has_heartbeats,
  to_regclass('task_run') IS NOT NULL AS has_tasks, schemas, schema, sees_it,
  (SELECT count(*) = 4 FROM pg_attribute a WHERE NOT a.attisdropped AND (a.attrelid, a.attname) IN
    ((to_regclass('task_run'), 'result'), (to_regclass('task_run'), 'updated_at'),
    (to_regclass('replica_heartbeat'), 'replica_id'), (to_regclass('replica_heartbeat'), 'last_heartbeat'))
    AND CASE a.attname WHEN 'result' THEN a.atttypid IN ('jsonb'::regtype, 'json'::regtype)
      WHEN 'replica_id' THEN true ELSE a.atttypid = 'timestamptz'::regtype END
    AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')) AS shows_results,
  coalesce(current_database()::text <> $6, false) AS is_other_database
  FROM (SELECT count(*) AS schemas, min(quote_ident(n.nspname)) AS schema,
    coalesce(bool_or(c.oid = to_regclass('task_run')), false) AS sees_it
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = 'task_run' AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND EXISTS
    (SELECT FROM pg_class h WHERE h.relname = 'replica_heartbeat' AND h.relnamespace = n.oid)) tables
