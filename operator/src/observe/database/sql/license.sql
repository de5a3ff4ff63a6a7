, 'license', (SELECT json_build_array(w.resource_id, s.value::jsonb ->> 'license') FROM workspace w
  LEFT JOIN setting s ON s.workspace = w.resource_id AND s.name::text = 'SYSTEM' WHERE NOT w.deleted
  ORDER BY w.resource_id LIMIT 1)
