, sessions AS (SELECT pg_stat_get_backend_pid(id) AS pid, pg_stat_get_backend_activity(id) AS query,
  pg_stat_get_backend_userid(id) AS role
  FROM pg_stat_get_backend_idset() s(id) WHERE pg_stat_get_backend_dbid(id) = (SELECT oid FROM me)),
  locks AS MATERIALIZED (SELECT pid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND classid = 0
  AND objid IN ({queue_lock}, {migration_lock}) AND objsubid = 1 AND granted AND database = (SELECT oid FROM me))
