ALTER TABLE instances ADD COLUMN cpu_new INTEGER;

DO $$
DECLARE
    batch_size INTEGER := 1000;
    offset_val INTEGER := 0;
BEGIN
    LOOP
        UPDATE instances
        SET cpu_new = cpu * 1000
        WHERE id IN (
            SELECT id FROM instances
            WHERE cpu_new IS NULL
            LIMIT batch_size
        );

        EXIT WHEN NOT FOUND;
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;

ALTER TABLE instances RENAME COLUMN cpu TO cpu_old;
ALTER TABLE instances RENAME COLUMN cpu_new TO cpu;

ALTER TABLE instances DROP COLUMN cpu_old;
