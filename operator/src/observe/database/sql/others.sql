, 'others', (SELECT json_agg(json_build_array(o.role, o.name)) FROM (SELECT DISTINCT pg_get_userbyid(s.role) AS role,
  a.application_name AS name FROM sessions s, pg_stat_get_activity(s.pid) a
  WHERE s.pid <> pg_backend_pid() AND s.role <> 0 AND coalesce(a.backend_type, 'client backend') = 'client backend'
  AND coalesce(a.application_name, '') <> '{operator}' AND NOT starts_with(coalesce(a.application_name, ''), '{hooks}')
  ORDER BY 1, 2 LIMIT {rows}) o)
