-- Biblioteca del barrio: libros, socios y préstamos (SQLite).

CREATE TABLE member (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    joined TEXT NOT NULL
);

CREATE TABLE book (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    author TEXT NOT NULL,
    language TEXT NOT NULL
);

CREATE TABLE loan (
    id INTEGER PRIMARY KEY,
    book INTEGER NOT NULL REFERENCES book (id),
    member INTEGER NOT NULL REFERENCES member (id),
    taken TEXT NOT NULL,
    returned TEXT
);

-- Un libro no puede estar en dos casas a la vez.
CREATE UNIQUE INDEX one_open_loan ON loan (book) WHERE returned IS NULL;

-- Quién no ha devuelto a tiempo: el plazo es de tres semanas.
CREATE VIEW overdue AS
SELECT member.name, book.title,
       CAST(julianday('now') - julianday(loan.taken) - 21 AS INTEGER) AS days_late
FROM loan
JOIN member ON member.id = loan.member
JOIN book ON book.id = loan.book
WHERE loan.returned IS NULL AND julianday('now') - julianday(loan.taken) > 21
ORDER BY days_late DESC;

-- Los favoritos de cada idioma: los tres títulos que más veces salieron.
CREATE VIEW favourites AS
SELECT language, title, times
FROM (
    SELECT book.language, book.title, COUNT(*) AS times,
           ROW_NUMBER() OVER (PARTITION BY book.language ORDER BY COUNT(*) DESC, book.title) AS place
    FROM loan JOIN book ON book.id = loan.book
    GROUP BY book.id
)
WHERE place <= 3;

-- Cómo crece la actividad: préstamos de cada mes y suma acumulada.
CREATE VIEW growth AS
SELECT month, loans, SUM(loans) OVER (ORDER BY month) AS so_far
FROM (SELECT substr(taken, 1, 7) AS month, COUNT(*) AS loans FROM loan GROUP BY month);

-- Socios dormidos: se apuntaron hace más de un año y en ese año no se llevaron nada.
CREATE VIEW dormant AS
SELECT member.name
FROM member
LEFT JOIN loan ON loan.member = member.id AND loan.taken > date('now', '-1 year')
WHERE member.joined < date('now', '-1 year') AND loan.id IS NULL;
