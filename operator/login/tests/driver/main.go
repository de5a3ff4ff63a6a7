// The driver of Bytebase, asked for one login after the other: a line of JSON in, a line of JSON out.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Longer than any login takes on a busy machine; what is silent is not asked here.
const limit = 20 * time.Second

type outcome struct {
	// What the session says of itself; empty without one.
	Session string `json:"session"`
	// SQLSTATE of the last refusal, if it was the server that refused.
	Code string `json:"code"`
	// For a reader of a failed test.
	Error string `json:"error"`
}

type login struct {
	URL string `json:"url"`
	// Asked once logged in.
	Question string `json:"question"`
	// Where names lead to that no resolver knows.
	Names map[string][]string `json:"names"`
}

func (asked login) try(session *string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	config, err := pgx.ParseConfig(asked.URL)
	if err != nil {
		return err
	}
	resolver := config.LookupFunc
	config.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		if addresses, known := asked.Names[host]; known {
			return addresses, nil
		}
		return resolver(ctx, host)
	}
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer connection.Close(ctx)
	results, err := connection.PgConn().Exec(ctx, asked.Question).ReadAll()
	if err != nil {
		return err
	}
	*session = string(results[0].Rows[0][0])
	return nil
}

func (asked login) outcome() (result outcome) {
	if err := asked.try(&result.Session); err != nil {
		result.Error = err.Error()
		result.Code = lastCode(err)
	}
	return result
}

// The driver joins the errors of all attempts; the last one is what it gave up at.
func lastCode(err error) string {
	for err != nil {
		if refusal, ok := err.(*pgconn.PgError); ok {
			return refusal.Code
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all := joined.Unwrap()
			err = all[len(all)-1]
			continue
		}
		err = errors.Unwrap(err)
	}
	return ""
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked login
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		if err := answers.Encode(asked.outcome()); err != nil {
			panic(err)
		}
	}
}
