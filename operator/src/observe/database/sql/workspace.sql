, 'license', (SELECT json_build_array(w.resource_id, NULL) FROM workspace w WHERE NOT w.deleted
  ORDER BY w.resource_id LIMIT 1)
