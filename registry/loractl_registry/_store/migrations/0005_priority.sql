-- The class in which the requests of a tenant wait.

ALTER TABLE tenant ADD COLUMN priority TEXT NOT NULL DEFAULT 'standard'
    CHECK (priority IN ('interactive', 'standard', 'batch'));
