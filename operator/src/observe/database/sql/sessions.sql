, 'sessions', json_build_object(
'migration_running', CASE WHEN EXISTS (SELECT FROM sessions WHERE pid <> pg_backend_pid())
  THEN EXISTS (SELECT FROM locks WHERE objid = {migration_lock}) ELSE false END,
'queue_held_by', CASE WHEN EXISTS (SELECT FROM sessions WHERE pid <> pg_backend_pid())
  THEN (SELECT json_agg(DISTINCT a.application_name) FROM (SELECT pid, mode FROM locks WHERE objid = {queue_lock} LIMIT {rows}) l,
  pg_stat_get_activity(l.pid) a WHERE l.mode = 'ShareLock' OR a.state_change < clock_timestamp() - interval '5 seconds') END,
'sees_all', current_setting('track_activities') = 'on' AND pg_has_role('pg_read_all_stats', 'USAGE'),
'hidden', current_setting('track_activities') <> 'on'
  OR EXISTS (SELECT FROM sessions s WHERE coalesce(s.query, '<insufficient privilege>') = '<insufficient privilege>'
    AND EXISTS (SELECT FROM pg_stat_get_activity(s.pid) a WHERE a.application_name ~ '(^|-[0-9]+)$')
    AND (s.role = (SELECT oid FROM pg_roles WHERE rolname = {role})
      OR NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {role})
      OR EXISTS (SELECT FROM pg_roles r, principal_table p
        WHERE r.oid = s.role AND NOT r.rolsuper AND pg_has_role(r.oid, p.relowner, 'MEMBER')))),
'listeners', (SELECT json_agg(json_build_array(a.application_name, host(a.client_addr))) FROM (SELECT pid FROM sessions
  WHERE query ~* '^[[:space:]]*listen[[:space:]]+"?bytebase_signal"?[[:space:]]*;?[[:space:]]*$' LIMIT {rows}) l, pg_stat_get_activity(l.pid) a))
