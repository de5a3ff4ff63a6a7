'unseen', (SELECT n.nspname FROM unnest(string_to_array(current_setting('search_path'), ',')) p
  JOIN pg_namespace n ON n.nspname IN (btrim(p, ' "'), lower(btrim(p)))
  JOIN pg_roles r ON r.rolname = {worker} AND has_schema_privilege(r.oid, n.oid, 'USAGE')
  WHERE NOT has_schema_privilege(n.oid, 'USAGE') LIMIT 1),
'knows_role', EXISTS (SELECT FROM pg_roles WHERE rolname = {role}),
