// Package feeds holt Nachrichten von mehreren Seiten und zeigt jede nur einmal.
package feeds

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Page ist der zuletzt bekannte Stand einer Adresse.
type Page struct {
	Address, ETag string
	Body          []byte
}

// Refresh lädt die Seite nur, wenn der Server sagt, dass sie sich geändert hat.
func Refresh(ctx context.Context, client *http.Client, old Page) (Page, bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, old.Address, nil)
	if err != nil {
		return old, false, err
	}
	if old.ETag != "" {
		request.Header.Set("If-None-Match", old.ETag)
	}
	answer, err := client.Do(request)
	if err != nil {
		return old, false, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotModified:
		return old, false, nil
	case http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
		return Page{old.Address, answer.Header.Get("ETag"), body}, err == nil, err
	}
	return old, false, fmt.Errorf("%s: %s", old.Address, answer.Status)
}

// Canonical streicht Zählpixel-Parameter und Anker, damit gleiche Artikel gleich heißen.
func Canonical(address string) (string, error) {
	parsed, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return "", err
	}
	query := parsed.Query()
	for name := range query {
		if strings.HasPrefix(name, "utm_") || name == "fbclid" {
			query.Del(name)
		}
	}
	parsed.RawQuery, parsed.Fragment = query.Encode(), ""
	parsed.Host = strings.ToLower(parsed.Host)
	parsed.Path = strings.TrimSuffix(parsed.Path, "/")
	return parsed.String(), nil
}

// Gather arbeitet mit höchstens limit gleichzeitigen Verbindungen und bricht alles ab, wenn ctx endet.
func Gather(ctx context.Context, pages []Page, limit int, visit func(context.Context, Page) error) []error {
	slots := make(chan struct{}, limit)
	failures := make([]error, len(pages))
	var group sync.WaitGroup
	for index, page := range pages {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			failures[index] = ctx.Err()
			continue
		}
		group.Add(1)
		go func(index int, page Page) {
			defer group.Done()
			defer func() { <-slots }()
			failures[index] = visit(ctx, page)
		}(index, page)
	}
	group.Wait()
	return failures
}
