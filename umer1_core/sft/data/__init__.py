"""The `cold_start` table as rows of coming steps."""
