"""The slots of ATIS, the air travel queries of Hemphill, Godfrey and Doddington 1990, as CNTK's files number them."""

# What B- tags are of, and what I- tags are of: in the order of their numbers in the files.
BEGIN = """
aircraft_code airline_code airline_name airport_code airport_name arrive_date.date_relative arrive_date.day_name
arrive_date.day_number arrive_date.month_name arrive_date.today_relative arrive_time.end_time
arrive_time.period_mod arrive_time.period_of_day arrive_time.start_time arrive_time.time
arrive_time.time_relative booking_class city_name class_type compartment connect cost_relative day_name
day_number days_code depart_date.date_relative depart_date.day_name depart_date.day_number
depart_date.month_name depart_date.today_relative depart_date.year depart_time.end_time depart_time.period_mod
depart_time.period_of_day depart_time.start_time depart_time.time depart_time.time_relative economy fare_amount
fare_basis_code flight flight_days flight_mod flight_number flight_stop flight_time fromloc.airport_code
fromloc.airport_name fromloc.city_name fromloc.state_code fromloc.state_name meal meal_code meal_description mod
month_name or period_of_day restriction_code return_date.date_relative return_date.day_name
return_date.day_number return_date.month_name return_date.today_relative return_time.period_mod
return_time.period_of_day round_trip state_code state_name stoploc.airport_code stoploc.airport_name
stoploc.city_name stoploc.state_code time time_relative today_relative toloc.airport_code toloc.airport_name
toloc.city_name toloc.country_name toloc.state_code toloc.state_name transport_type
"""
INSIDE = """
airline_name airport_name arrive_date.day_number arrive_time.end_time arrive_time.period_of_day
arrive_time.start_time arrive_time.time arrive_time.time_relative city_name class_type cost_relative
depart_date.day_name depart_date.day_number depart_date.today_relative depart_time.end_time
depart_time.period_of_day depart_time.start_time depart_time.time depart_time.time_relative economy fare_amount
fare_basis_code flight_mod flight_number flight_stop flight_time fromloc.airport_name fromloc.city_name
fromloc.state_name meal_code meal_description mod restriction_code return_date.date_relative
return_date.day_number return_date.today_relative round_trip state_name stoploc.city_name time today_relative
toloc.airport_name toloc.city_name toloc.state_name transport_type
"""

#: The 129 tags by their class numbers: 83 that begin a chunk, 45 that go on, and O.
SLOTS = (*(f"B-{name}" for name in BEGIN.split()), *(f"I-{name}" for name in INSIDE.split()), "O")
