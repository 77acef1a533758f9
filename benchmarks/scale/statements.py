"""The SQL that fills a registry on PostgreSQL's own side, each step with what it says of itself.

Everything follows from numbers: blob 17 has the same digest, size and key wherever it is mentioned.
Of ten manifests in a repository, eight are images, the ninth signs the eighth image (`subject`) and
the tenth is an index of the seventh and the eighth. An image has a configuration and a few layers
of its own, most have those of the image before too, and all have one to three that are popular in
the whole registry.
"""

from typing import Final, LiteralString

LARGE: Final = (
    "accounts", "repositories", "grants", "blobs", "repository_blobs", "manifests",
    "manifest_references", "tags", "repository_pulls", "manifest_pulls",
)  # fmt: skip
"""The tables that are filled, each after those that it refers to."""

PARTS: Final[LiteralString] = """
CREATE TEMPORARY TABLE part (
    repository bigint PRIMARY KEY, namespace text, name text, visibility text,
    first_manifest bigint, manifests bigint, first_blob bigint, blobs bigint, tags bigint
) ON COMMIT DROP
"""

FUNCTIONS: Final[LiteralString] = """
CREATE FUNCTION pg_temp.hex(kind text, number bigint) RETURNS text IMMUTABLE LANGUAGE sql AS $$
    SELECT encode(sha256(convert_to({seed} || kind || number, 'UTF8')), 'hex') $$;

-- From 32 bytes to some 100 MB, most of them small.
CREATE FUNCTION pg_temp.size_of(blob bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$
    SELECT 32 + ((blob * 7919) % 1009) * ((blob * 104729) % 317) * ((blob * 31) % 331) $$;

CREATE FUNCTION pg_temp.described(blob bigint, digest text) RETURNS text IMMUTABLE LANGUAGE sql
AS $$ SELECT '","digest":"' || digest || '","size":' || pg_temp.size_of(blob) || '}}' $$;
"""

STEPS: Final[tuple[tuple[str, LiteralString], ...]] = (
    (
        "accounts",
        """
INSERT INTO accounts (name, kind, is_admin, is_active, epoch, created_at)
SELECT DISTINCT namespace, 'organization', false, true, 1, {now} FROM part
UNION ALL
SELECT 'user-' || lpad(number::text, 6, '0'), 'user', false, true, 1, {now}
FROM generate_series(1, {users}) AS number
""",
    ),
    (
        "repositories",
        """
INSERT INTO repositories (id, namespace_id, name, visibility, created_at)
SELECT part.repository, accounts.id, part.name, part.visibility, {now}
FROM part JOIN accounts ON accounts.name = part.namespace
""",
    ),
    (
        "grants",
        """
INSERT INTO grants (account_id, namespace_id, repository_id, level)
SELECT account.id, NULL, 1 + (row_number() OVER () * 7 + step * 101) % {repositories}, 2
FROM accounts AS account, generate_series(1, least(5, {repositories} / 2)) AS step
WHERE account.kind = 'user' AND account.name LIKE 'user-%'
ON CONFLICT DO NOTHING;

INSERT INTO grants (account_id, namespace_id, repository_id, level)
SELECT account.id, organization.id, NULL, 1
FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS number FROM accounts
    WHERE kind = 'user' AND name LIKE 'user-%'
) AS account
JOIN (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS number, count(*) OVER () AS count
    FROM accounts WHERE kind = 'organization'
) AS organization ON account.number % organization.count = organization.number
""",
    ),
    (
        "blobs",
        """
INSERT INTO blobs (id, digest, size, storage_key, state, created_at)
SELECT number, 'sha256:' || hex, pg_temp.size_of(number),
    'sha256/' || left(hex, 2) || '/' || hex || '.' || md5(hex)::uuid, 'live', {now} - number % 1000
FROM (
    SELECT number, pg_temp.hex('blob', number) AS hex FROM generate_series(1, {blobs}) AS number
) AS made
""",
    ),
    (
        "what is in which manifest",
        """
-- Of each manifest: its place in the repository, its own blobs, and those of the image before.
CREATE TEMPORARY TABLE planned ON COMMIT DROP AS
SELECT repository, manifest, place, is_image,
    CASE WHEN is_image THEN first_blob + image * blobs / images END AS own,
    CASE WHEN is_image THEN first_blob + (image + 1) * blobs / images - 1 END AS last_own,
    CASE WHEN is_image AND place > 0 AND place % 3 > 0
        THEN first_blob + greatest(image - 1, 0) * blobs / images END AS before
FROM (
    SELECT repository, first_manifest + place AS manifest, place, place % 10 < 8 AS is_image,
        place - place / 10 * 2 AS image,
        manifests - manifests / 10 * 2 - CASE WHEN manifests % 10 = 9 THEN 1 ELSE 0 END AS images,
        first_blob, blobs
    FROM part, generate_series(0, manifests - 1) AS place
) AS placed;

CREATE TEMPORARY TABLE edge ON COMMIT DROP AS
SELECT DISTINCT manifest, blob, blob = own AS is_config FROM (
    SELECT manifest, blob, own FROM planned, generate_series(own, last_own) AS blob
    WHERE is_image
    UNION ALL
    SELECT manifest, blob, own FROM planned, generate_series(before + 1, own - 1) AS blob
    WHERE is_image AND before IS NOT NULL
    UNION ALL
    SELECT manifest, 1 + (repository * 3 + step) % {popular}, own
    FROM planned, generate_series(0, place % 3) AS step
    WHERE is_image
    UNION ALL
    SELECT manifest, 1 + repository * 3 % {popular}, 1 + repository * 3 % {popular}
    FROM planned WHERE place % 10 = 8
) AS every;
ANALYZE edge;
ANALYZE planned;
""",
    ),
    (
        "images",
        """
INSERT INTO manifests (
    id, repository_id, digest, media_type, payload, size, artifact_type, annotations, pushed_at,
    edge_rules
)
SELECT manifest, repository, 'sha256:' || encode(sha256(payload), 'hex'),
    'application/vnd.oci.image.manifest.v1+json', payload, length(payload), '', '{{}}',
    {now} - manifest % 1000, 1
FROM (
    SELECT planned.manifest, min(planned.repository) AS repository, convert_to(
        '{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",' ||
        '"config":{{"mediaType":"application/vnd.oci.image.config.v1+json' ||
        min(words) FILTER (WHERE is_config) || ',"layers":[' ||
        coalesce(string_agg(
            '{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip' || words, ',' ORDER BY blob
        ) FILTER (WHERE NOT is_config), '') ||
        '],"annotations":{{"org.opencontainers.image.revision":"' || planned.manifest || '"}}}}',
        'UTF8') AS payload
    FROM planned
    JOIN (
        SELECT edge.*,
            pg_temp.described(blob, 'sha256:' || pg_temp.hex('blob', blob)) AS words
        FROM edge
    ) AS mentioned USING (manifest)
    WHERE is_image
    GROUP BY planned.manifest
) AS made
""",
    ),
    (
        "signatures and indexes",
        """
CREATE TEMPORARY TABLE child ON COMMIT DROP AS
SELECT planned.repository, planned.manifest, image.id AS image, image.digest, image.size
FROM planned JOIN manifests AS image
    ON image.id = ANY (ARRAY[planned.manifest - 2, planned.manifest - 3])
WHERE planned.place % 10 = 9;

INSERT INTO manifests (
    id, repository_id, digest, media_type, payload, size, subject, artifact_type, annotations,
    pushed_at, edge_rules
)
SELECT manifest, repository, 'sha256:' || encode(sha256(payload), 'hex'), media_type, payload,
    length(payload), subject, artifact_type, '{{}}', {now} - manifest % 1000, 1
FROM (
    SELECT planned.manifest, repository, 'application/vnd.oci.image.manifest.v1+json' AS media_type,
        image.digest AS subject, 'application/vnd.example.signature' AS artifact_type, convert_to(
        '{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",' ||
        '"artifactType":"application/vnd.example.signature",' ||
        '"config":{{"mediaType":"application/vnd.oci.empty.v1+json' ||
        pg_temp.described(blob, 'sha256:' || pg_temp.hex('blob', blob)) || ',"layers":[],' ||
        '"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"' ||
        image.digest || '","size":' || image.size || '}}}}', 'UTF8') AS payload
    FROM planned JOIN edge USING (manifest) JOIN manifests AS image ON image.id = manifest - 1
    WHERE planned.place % 10 = 8
    UNION ALL
    SELECT manifest, min(repository), 'application/vnd.oci.image.index.v1+json', NULL, '',
        convert_to('{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",' ||
            '"manifests":[' || string_agg(
                '{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"' || digest ||
                '","size":' || size || '}}', ',' ORDER BY image
            ) || ']}}', 'UTF8')
    FROM child GROUP BY manifest
) AS made
""",
    ),
    (
        "references",
        """
INSERT INTO manifest_references (manifest_id, digest, repository_id, kind)
SELECT manifest, 'sha256:' || pg_temp.hex('blob', blob), repository, 'blob'
FROM edge JOIN planned USING (manifest)
UNION ALL
SELECT manifest, digest, repository, 'manifest' FROM child
""",
    ),
    (
        "links",
        """
INSERT INTO repository_blobs (repository_id, digest)
SELECT repository, 'sha256:' || pg_temp.hex('blob', blob) FROM (
    SELECT DISTINCT repository, blob FROM edge JOIN planned USING (manifest)
) AS linked
""",
    ),
    (
        "tags",
        """
INSERT INTO tags (repository_id, name, manifest_id, updated_at)
SELECT repository, 'v' || number % 10 || '.' || lpad(number::text, 7, '0'),
    first_manifest + number % manifests, {now} - number % 1000
FROM part, generate_series(0, tags - 1) AS number
""",
    ),
    (
        "pulls",
        """
INSERT INTO repository_pulls (repository_id, pulls, last_pulled_at)
SELECT repository, 1 + repository * 31 % 10007, {now} - repository % 1000 FROM part;
INSERT INTO manifest_pulls (manifest_id, pulls, last_pulled_at)
SELECT manifest, 1 + manifest * 31 % 1009, {now} - manifest % 1000 FROM planned
WHERE manifest % 10 = 0
""",
    ),
    (
        "the numbers that come next",
        """
SELECT setval(pg_get_serial_sequence('repositories', 'id'), (SELECT max(id) FROM repositories));
SELECT setval(pg_get_serial_sequence('blobs', 'id'), (SELECT max(id) FROM blobs));
SELECT setval(pg_get_serial_sequence('manifests', 'id'), (SELECT max(id) FROM manifests))
""",
    ),
)
