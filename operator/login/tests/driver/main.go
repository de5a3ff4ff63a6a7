// The driver of Bytebase, asked for one login after the other: a line of JSON in, a line of JSON out.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Longer than any login takes on a busy machine; what is silent is not asked here.
const limit = 20 * time.Second

type outcome struct {
	// What the session says of itself; empty without one.
	Session string `json:"session"`
	// Where it failed: "parse" before anything was sent, "tls" where the driver does not take what the
	// server shows or offers, "network" without a connection to its end, and otherwise "server".
	Kind string `json:"kind"`
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

// A connection string, or a file that it names, which the driver does not take.
type unparsed struct{ error }

func (asked login) try(session *string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	config, err := pgx.ParseConfig(asked.URL)
	if err != nil {
		return unparsed{err}
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
		result.Kind, result.Code = last(err)
	}
	return result
}

// What the last attempt ended with: the driver joins the errors of all, and gave up at the last one.
func last(err error) (kind, code string) {
	for err != nil {
		if kind, code := known(err); kind != "" {
			return kind, code
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all := joined.Unwrap()
			err = all[len(all)-1]
			continue
		}
		err = errors.Unwrap(err)
	}
	return "server", ""
}

// The kind of an error that is a cause in itself.
func known(err error) (kind, code string) {
	// Neither is exported, or has a type of its own.
	text := err.Error()
	isOfTLS := strings.HasPrefix(text, "tls: ") || strings.HasPrefix(text, "x509: ") ||
		text == "server refused TLS connection"
	switch cause := err.(type) {
	case unparsed:
		return "parse", ""
	case *pgconn.PgError:
		return "server", cause.Code
	case *net.OpError:
		if cause.Op == "local error" {
			return "tls", ""
		}
		// An alert of the other side among them, of which the end of the connection may be all that
		// arrives.
		return "network", ""
	}
	if isOfTLS {
		return "tls", ""
	}
	if _, ok := err.(net.Error); ok || err == io.EOF || err == io.ErrUnexpectedEOF {
		return "network", ""
	}
	return "", ""
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
