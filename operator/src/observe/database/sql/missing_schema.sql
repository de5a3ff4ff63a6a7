(SELECT CASE WHEN NOT bool_or(n.oid IS NOT NULL) THEN (array_agg(name ORDER BY place))[1] END
  FROM (SELECT btrim(p, ' "') AS name, place FROM unnest(string_to_array(current_setting('search_path'), ','))
    WITH ORDINALITY s(p, place)) named LEFT JOIN pg_namespace n ON n.nspname IN (name, lower(name)) WHERE name <> '$user')
